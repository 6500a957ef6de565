import torch

# Many small decompositions: on two threads each waits for the other, several times longer than one alone takes.
torch.set_num_threads(1)

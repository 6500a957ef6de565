import threading

queue_lock = threading.Lock()  # one image at a time: the API and the page hold it, a tab's own handlers do not

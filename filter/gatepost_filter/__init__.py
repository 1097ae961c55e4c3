"""The door behind the queue: pipe.py, the transport script that pipe(8) runs for each message. Imports nothing."""

"""The door behind the queue: pipe.py, the script that pipe(8) runs for each message, and transport.py, what it does."""

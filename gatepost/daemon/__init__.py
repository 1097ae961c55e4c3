"""What the processes that stay have in common, the milter and the warm process, whose doors may not import each other.

The map: `current` (the configuration in force, and its change), `endpoint` (the socket: whose place it is), `room` (how much is
under way), `memory` (what a message needed goes back), `systemd` (readiness, the watchdog, a socket that it opened).
"""

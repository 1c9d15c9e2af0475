"""`receiver` and `event-logger`: an event's arrival is recorded before the event is acknowledged (docs/eventing.md).

Both are HTTP services of `http_workers`. The commands start them; this package does not read experiments, and does not
join receipts with requests (results does).
"""

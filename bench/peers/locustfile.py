"""Locust's fast client in a closed loop: each user sends its next request when the last one was answered."""

from locust import FastHttpUser, constant, task


class User(FastHttpUser):
    """One connection."""

    wait_time = constant(0)

    @task
    def get(self) -> None:
        """The one request."""
        self.client.get("/")

"""What the tests' egress adds to mitmproxy: one host is given a token that the agent does not
have, and an event stream is passed on as it comes."""

import os


def token():
    # Anew each time: the host may have replaced it.
    with open(os.environ["CREDENTIALS_DIRECTORY"] + "/token") as file:
        return file.read().strip()


def request(flow):
    # Where it goes, and not what its Host header says.
    if flow.request.host == os.environ["INJECT_FOR"]:
        flow.request.headers["Authorization"] = "Bearer " + token()


def responseheaders(flow):
    kind = flow.response.headers.get("Content-Type", "")
    flow.response.stream = kind.startswith("text/event-stream")

"""What can go wrong between the worker and the Prefect API.

```
APIError
├── APIUnavailableError       no answer, or one that says "not now": try again later
├── UnsendableRequestError    JSON has no form for what was to be sent
├── MalformedAnswerError      an answer that is not what the Prefect API sends
└── RequestRefusedError       the API understood and said no (4xx)
    ├── NotAuthenticatedError     401
    ├── NotPermittedError         403
    ├── ObjectNotFoundError       404, the object is not there
    ├── APINotFoundError          404, there is no Prefect API at this URL
    └── ObjectExistsError         409
```
"""

# How the server answers a request with a field that it does not know or like.
_UNPROCESSABLE = 422


class APIError(Exception):
    """The root of every error that the client of the Prefect API raises; see `trioworker.api.errors`."""


class APIUnavailableError(APIError):
    """The API cannot be reached, or asked to be left alone for a while.

    Attributes:
        retry_after: seconds that the API asked to wait, if it did.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnsendableRequestError(APIError):
    """The body of a request cannot be put into JSON; nothing was sent.

    Attributes:
        request: method and path of the request.
        detail: what it holds that JSON cannot.
    """

    def __init__(self, request: str, detail: str) -> None:
        super().__init__(f"{request} cannot be sent: {detail}")
        self.request = request
        self.detail = detail


class MalformedAnswerError(APIError):
    """The answer is not JSON, or lacks what the worker needs.

    Attributes:
        request: method and path of the request.
        problems: one entry per field, each with its path.
    """

    def __init__(self, request: str, problems: list[str]) -> None:
        super().__init__(f"{request} was answered with something unexpected: {'; '.join(problems)}")
        self.request = request
        self.problems = problems


class RequestRefusedError(APIError):
    """The API answered with a status from 400 to 499.

    Attributes:
        request: method and path of the request.
        status_code: the HTTP status.
        detail: what the API said about it.
    """

    def __init__(self, request: str, status_code: int, detail: str) -> None:
        super().__init__(f"{request} was refused with {status_code}: {detail}")
        self.request = request
        self.status_code = status_code
        self.detail = detail

    @property
    def is_of_body(self) -> bool:
        """Whether it is what was sent that the API does not accept, and not where or by whom (422)."""
        return self.status_code == _UNPROCESSABLE


class NotAuthenticatedError(RequestRefusedError):
    """401: the key or the auth string is missing or wrong."""


class NotPermittedError(RequestRefusedError):
    """403: the key is good, but not for this."""


class ObjectNotFoundError(RequestRefusedError):
    """404: the object asked for does not exist (any more)."""


class APINotFoundError(RequestRefusedError):
    """404: the server knows no such path, so the URL is not that of a Prefect API."""


class ObjectExistsError(RequestRefusedError):
    """409: somebody else made it first."""


# Refusals that speak of the connection, not of the request: keys expire, proxies come and go.
_REFUSED_CONNECTION = (NotAuthenticatedError, NotPermittedError, APINotFoundError)


def is_outage(error: APIError) -> bool:
    """Whether the same request may well succeed later, without anything being changed on our side."""
    return isinstance(error, (APIUnavailableError, MalformedAnswerError, *_REFUSED_CONNECTION))

"""What an S3 service answers, said in one line: which failures may pass, and what the lasting ones mean."""

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
)

from pipeline.errors import StorageError
from pipeline.stores.retries import Transient

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_PASSING = frozenset(
    "SlowDown Throttling ThrottlingException RequestLimitExceeded RequestTimeout InternalError ServiceUnavailable "
    "ConditionalRequestConflict OperationAborted IncompleteBody BadDigest XAmzContentSHA256Mismatch".split()
)
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_PASSING_FAULTS = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    FlexibleChecksumError,
    CredentialRetrievalError,
    MetadataRetrievalError,
)
_MISSING = frozenset("NoSuchKey NoSuchUpload NoSuchVersion 404".split())
_DENIED = frozenset("AccessDenied AllAccessDisabled AccountProblem InvalidPayer 403".split())
_CONDITION = frozenset("PreconditionFailed 412".split())
_BEYOND_END = frozenset("InvalidRange 416".split())
_ELSEWHERE = frozenset(
    "PermanentRedirect TemporaryRedirect Redirect AuthorizationHeaderMalformed "
    "IllegalLocationConstraintException 301 307".split()
)
_REFUSALS = {
    "NoSuchBucket": "there is no such bucket",
    "InvalidBucketName": "this cannot be the name of a bucket",
    "ExpiredToken": "the AWS credentials have expired; renew them, then run the same command again",
    "ExpiredTokenException": "the AWS credentials have expired; renew them, then run the same command again",
    "TokenRefreshRequired": "the AWS credentials have expired; renew them, then run the same command again",
    "InvalidAccessKeyId": "the AWS access key is not known there; check AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "InvalidToken": "the AWS session token is not valid; check AWS_SESSION_TOKEN",
    "SignatureDoesNotMatch": "the AWS secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


def code_of(error: ClientError) -> str:
    """Returns the service's error code, or the HTTP status where the answer had no body."""
    said = error.response.get("Error", {}).get("Code") or _status(error)
    return str(said)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def explained(error: Exception, uri: str) -> Exception:
    """Returns what to raise for a failed request.

    `Transient` for what may pass, FileNotFoundError and PermissionError for one object, FileExistsError for
    an unmet condition, EOFError for a range behind the end, and StorageError for all that would meet every
    other request as well.
    """
    bucket = "/".join(uri.split("/")[:3])
    if not isinstance(error, ClientError):
        if isinstance(error, NoCredentialsError):
            return StorageError(
                f"{bucket}: there are no AWS credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=yes for public data"
            )
        if isinstance(error, BotoCoreError) and not isinstance(error, _PASSING_FAULTS):
            return StorageError(f"{bucket}: {error}")
        return Transient(str(error) or type(error).__name__)
    code, said = code_of(error), error.response.get("Error", {})
    message = f"{code}: {said['Message']}" if said.get("Message") else code
    if code in _PASSING or _status(error) in _PASSING_STATUS:
        return Transient(message)
    if code in _MISSING:
        return FileNotFoundError(f"{uri}: there is no such object")
    if code in _DENIED:
        return PermissionError(f"{uri}: permission denied ({message})")
    if code in _CONDITION:
        return FileExistsError(uri)
    if code in _BEYOND_END:
        return EOFError(uri)
    if code in _ELSEWHERE:
        return StorageError(f"{bucket}: {_region(error)} ({message})")
    if code in _REFUSALS:
        return StorageError(f"{bucket}: {_REFUSALS[code]} ({message})")
    return OSError(f"{uri}: {message}")


def _region(error: ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = error.response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    if region:
        return f"the bucket lies in region {region}; set AWS_REGION={region}"
    return "the bucket lies in another region; set AWS_REGION to it"

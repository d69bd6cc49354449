"""Every kind of bad input, each with the ledger rows that must come of it."""

from tests.corpus.films import FILMS
from tests.corpus.folders import FOLDERS
from tests.corpus.images import IMAGES
from tests.corpus.labels import LABELS
from tests.corpus.tables import TABLES
from tests.corpus.tars import TARS

BAD_INPUTS = (*IMAGES, *LABELS, *TARS, *TABLES, *FOLDERS, *FILMS)

"""The report of a study that people read, and the same as JSON: two views of one `PageContent`."""

from idl.study.page.collect import cues_part, page_content, provenance
from idl.study.page.content import EncoderCues, PageContent, Provenance
from idl.study.page.document import document
from idl.study.page.html import page

__all__ = [
    "EncoderCues",
    "PageContent",
    "Provenance",
    "cues_part",
    "document",
    "page",
    "page_content",
    "provenance",
]

"""The report of a study that people read, and the same as JSON: two views of one `PageContent`."""

from idl.verdict.page.content import EncoderCues, PageContent, Provenance, cues_part, document, page_content, provenance
from idl.verdict.page.render import page

__all__ = ["EncoderCues", "PageContent", "Provenance", "cues_part", "document", "page", "page_content", "provenance"]

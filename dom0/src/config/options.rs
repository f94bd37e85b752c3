//! The comma lists of disk and network specifications.

use super::diagnostic::Span;

/// One part of a comma list, with its place in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) text: &'a str,
    pub(super) span: Span,
}

impl<'a> Part<'a> {
    /// `KEY=VALUE` apart, when it has that form.
    pub(super) fn pair(self) -> Option<(&'a str, Part<'a>)> {
        let (key, value) = self.text.split_once('=')?;
        let start = self.span.start + key.len() + 1;
        Some((key.trim(), Part { text: value, span: Span::new(start, self.span.end) }.trimmed()))
    }

    /// Without blanks at its ends.
    pub(super) fn trimmed(self) -> Self {
        let start = self.span.start + (self.text.len() - self.text.trim_start().len());
        let text = self.text.trim();
        Self { text, span: Span::new(start, start + text.len()) }
    }
}

/// The parts of a text in quotes at `span`. Places are right for texts without escapes, and near for others.
pub(super) fn parts(text: &str, span: Span) -> impl Iterator<Item = Part<'_>> {
    let mut start = span.start + 1;
    text.split(',').map(move |piece| {
        let part = Part { text: piece, span: Span::new(start, start + piece.len()) };
        start += piece.len() + 1;
        Part { span: Span::new(part.span.start.min(span.end), part.span.end.min(span.end)), ..part }.trimmed()
    })
}

//! Markup as it grows. What is ours is literal, what is not goes through [`escape`]: there is no third way in.

use std::fmt::Write as _;

use crate::report::escape;

/// A page of so many bytes is large enough: from then on texts from outside are short.
const PLENTY: usize = 4 << 20;
/// As short as that: a digest, or an id, still fits.
const SHORT: usize = 128;

/// The markup so far.
#[derive(Debug)]
pub(super) struct Markup {
    out: String,
    /// No text from outside is longer than that.
    most: usize,
}

impl Markup {
    pub(super) fn new(most: usize) -> Markup {
        Markup { out: String::new(), most }
    }

    /// Markup of ours.
    pub(super) fn lit(&mut self, markup: &'static str) -> &mut Markup {
        self.out.push_str(markup);
        self
    }

    /// A text, between tags or within a quoted attribute.
    pub(super) fn say(&mut self, text: &str) -> &mut Markup {
        let most = if self.out.len() > PLENTY { self.most.min(SHORT) } else { self.most };
        escape::html(text, most, &mut self.out);
        self
    }

    /// A number, to a tenth.
    pub(super) fn number(&mut self, number: f64) -> &mut Markup {
        let tenths = (number * 10.0).round() / 10.0;
        let _ = write!(self.out, "{}", if tenths.is_finite() { tenths } else { 0.0 });
        self
    }

    /// An element with nothing but a text in it: `lit` opens and closes.
    pub(super) fn tagged(&mut self, open: &'static str, text: &str, close: &'static str) -> &mut Markup {
        self.lit(open).say(text).lit(close)
    }

    /// The head of a table.
    pub(super) fn head(&mut self, columns: &[&'static str]) -> &mut Markup {
        self.lit("<thead><tr>");
        for column in columns {
            self.lit("<th scope=\"col\">").lit(column).lit("</th>");
        }
        self.lit("</tr></thead>\n")
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
}

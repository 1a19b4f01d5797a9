//! A page as blocks, and how these look in Markdown and in plain text.
//!
//! Whoever composes a page says what a thing is (words, a name, a command); only here it is written, through [`escape`]. What is not
//! here: HTML, which has pictures.

use std::fmt::Write as _;

use super::escape;

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Words.
    Words(String),
    /// A name, a path, a digest: what it says is what it is.
    Name(String),
}

/// A line, or what stands in a cell.
pub(super) type Line = Vec<Piece>;

/// Words alone.
pub(super) fn words(text: impl Into<String>) -> Line {
    vec![Piece::Words(text.into())]
}

/// A name alone.
pub(super) fn name(text: impl Into<String>) -> Line {
    vec![Piece::Name(text.into())]
}

/// Part of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    Heading(usize, Line),
    Paragraph(Line),
    List(Vec<Line>),
    Table(Vec<&'static str>, Vec<Vec<Line>>),
    Commands(Vec<String>),
}

/// A page that is being composed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    blocks: Vec<Block>,
}

impl Page {
    pub(super) fn heading(&mut self, level: usize, line: Line) {
        self.blocks.push(Block::Heading(level, line));
    }

    pub(super) fn paragraph(&mut self, line: Line) {
        self.blocks.push(Block::Paragraph(line));
    }

    pub(super) fn list(&mut self, lines: Vec<Line>) {
        self.blocks.push(Block::List(lines));
    }

    pub(super) fn table(&mut self, head: &[&'static str], rows: Vec<Vec<Line>>) {
        self.blocks.push(Block::Table(head.to_vec(), rows));
    }

    /// Each a list of words, of which no shell makes anything else.
    pub(super) fn commands<'a>(&mut self, commands: impl IntoIterator<Item = Vec<&'a str>>) {
        let line = |words: Vec<&str>| words.into_iter().map(escape::shell).collect::<Vec<_>>().join(" ");
        self.blocks.push(Block::Commands(commands.into_iter().map(line).collect()));
    }

    /// A heading and a table, unless the table would be empty.
    pub(super) fn section(&mut self, title: &'static str, head: &[&'static str], rows: Vec<Vec<Line>>) {
        if !rows.is_empty() {
            self.heading(2, words(title));
            self.table(head, rows);
        }
    }

    /// The page in Markdown, as GitHub and GitLab show it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let pieces = |pieces: &Line, in_cell: bool| -> String {
            let each = pieces.iter().map(|piece| match piece {
                Piece::Words(text) => escape::markdown(text),
                Piece::Name(text) => escape::code(text, in_cell),
            });
            each.collect::<Vec<_>>().join(" ")
        };
        let line = |line: &Line| pieces(line, false);
        let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let texts = self.blocks.iter().map(|block| match block {
            Block::Heading(level, text) => format!("{} {}\n", "#".repeat(*level), line(text)),
            Block::Paragraph(text) => line(text) + "\n",
            Block::List(lines) => lines.iter().map(|text| format!("- {}\n", line(text))).collect(),
            Block::Table(head, rows) => {
                let head_row = row(head.iter().map(|text| (*text).to_owned()).collect());
                let rows =
                    rows.iter().map(|cells| row(cells.iter().map(|cell| pieces(cell, true)).collect()));
                head_row + &"|---".repeat(head.len()) + "|\n" + &rows.collect::<String>()
            }
            Block::Commands(lines) => lines.iter().map(|command| format!("    {command}\n")).collect(),
        });
        texts.collect::<Vec<String>>().join("\n")
    }

    /// The page as plain text.
    #[must_use]
    pub fn text(&self) -> String {
        let line = |pieces: &Line| -> String {
            let each = pieces
                .iter()
                .map(|(Piece::Words(text) | Piece::Name(text))| escape::visible(text, escape::MOST));
            each.collect::<Vec<_>>().join(" ")
        };
        let texts = self.blocks.iter().map(|block| match block {
            Block::Heading(level, text) => {
                let text = line(text);
                let rule = if *level == 1 { "=" } else { "-" };
                format!("{text}\n{}\n", rule.repeat(text.chars().count()))
            }
            Block::Paragraph(text) => line(text) + "\n",
            Block::List(lines) => lines.iter().map(|text| format!("  - {}\n", line(text))).collect(),
            Block::Table(head, rows) => {
                let rows = rows.iter().map(|cells| cells.iter().map(line).collect());
                let head =
                    (!head.concat().is_empty()).then(|| head.iter().map(|text| (*text).to_owned()).collect());
                aligned(&head.into_iter().chain(rows).collect::<Vec<Vec<String>>>())
            }
            Block::Commands(lines) => lines.iter().map(|command| format!("    {command}\n")).collect(),
        });
        texts.collect::<Vec<String>>().join("\n")
    }
}

/// Columns as wide as their widest cell; the last one as it comes.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut text = String::from("  ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_same_in_both() {
        let mut page = Page::default();
        page.heading(1, name("web|1"));
        page.paragraph(vec![Piece::Words("Made of".to_owned()), Piece::Name("a`b".to_owned())]);
        page.list(vec![words("1. one"), words("<b>")]);
        page.section(
            "Files",
            &["file", "size"],
            vec![vec![name("x"), words("1 | 2")], vec![name("longer"), words("3")]],
        );
        page.section("Nothing", &["a"], Vec::new());
        page.commands([vec!["virsh", "start", "it's"]]);
        assert_eq!(
            page.markdown(),
            "# `web|1`\n\nMade of ``a`b``\n\n- 1\\. one\n- \\<b\\>\n\n## Files\n\n| file | size |\n|---|---|\n\
             | `x` | 1 \\| 2 |\n| `longer` | 3 |\n\n    virsh start 'it'\\''s'\n"
        );
        assert_eq!(
            page.text(),
            "web|1\n=====\n\nMade of a`b\n\n  - 1. one\n  - <b>\n\nFiles\n-----\n\n  file    size\n  x       1 | 2\n\
             \x20 longer  3\n\n    virsh start 'it'\\''s'\n"
        );
    }
}

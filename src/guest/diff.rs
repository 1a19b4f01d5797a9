//! The difference of two texts in the unified form, for dry runs.
//!
//! Configuration files are short, so the longest common subsequence is found the plain way; what is too long for that is shown as
//! replaced whole. What is not here: colours.

use std::fmt::Write;

use super::tree::shown;

/// Unchanged lines that are shown around a change.
const CONTEXT: usize = 3;
/// More cells than this are not computed: some 2,000 lines on either side.
const MOST_CELLS: usize = 4_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Same(usize, usize),
    Old(usize),
    New(usize),
}

/// `--- a/etc/fstab`, `+++ b/etc/fstab`, and what changed with three lines around it.
#[must_use]
pub fn unified(path: &str, before: &str, after: &str) -> String {
    let old: Vec<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().collect();
    let lines = align(&old, &new);
    let mut text = String::new();
    let name = shown(path);
    // Writing into a string does not fail.
    let _ = writeln!(text, "--- a{name}\n+++ b{name}");
    let is_change = |line: &Line| !matches!(line, Line::Same(..));
    let mut at = 0;
    while let Some(first) = lines[at..].iter().position(is_change).map(|offset| at + offset) {
        let start = first.saturating_sub(CONTEXT).max(at);
        let mut last = first;
        for (index, line) in lines.iter().enumerate().skip(first) {
            if is_change(line) {
                last = index;
            } else if index - last > 2 * CONTEXT {
                break;
            }
        }
        let end = (last + CONTEXT + 1).min(lines.len());
        hunk(&mut text, &lines[start..end], &old, &new);
        at = end;
    }
    text
}

fn hunk(text: &mut String, lines: &[Line], old: &[&str], new: &[&str]) {
    let of_old: Vec<usize> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Same(index, _) | Line::Old(index) => Some(*index),
            Line::New(_) => None,
        })
        .collect();
    let of_new: Vec<usize> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Same(_, index) | Line::New(index) => Some(*index),
            Line::Old(_) => None,
        })
        .collect();
    let range = |of: &[usize]| format!("{},{}", of.first().map_or(0, |first| first + 1), of.len());
    let _ = writeln!(text, "@@ -{} +{} @@", range(&of_old), range(&of_new));
    for line in lines {
        let _ = match line {
            Line::Same(index, _) => writeln!(text, " {}", shown(old[*index])),
            Line::Old(index) => writeln!(text, "-{}", shown(old[*index])),
            Line::New(index) => writeln!(text, "+{}", shown(new[*index])),
        };
    }
}

/// Both texts in one row: what is the same, what goes, what comes.
fn align(old: &[&str], new: &[&str]) -> Vec<Line> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (middle_old, middle_new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut lines: Vec<Line> = (0..head).map(|index| Line::Same(index, index)).collect();
    lines.extend(middle(middle_old, middle_new, head));
    lines.extend((0..tail).rev().map(|back| Line::Same(old.len() - 1 - back, new.len() - 1 - back)));
    lines
}

fn middle(old: &[&str], new: &[&str], offset: usize) -> Vec<Line> {
    let (rows, columns) = (old.len(), new.len());
    let replaced = || {
        (0..rows)
            .map(|index| Line::Old(offset + index))
            .chain((0..columns).map(|index| Line::New(offset + index)))
            .collect()
    };
    if rows.saturating_mul(columns) > MOST_CELLS {
        return replaced();
    }
    let width = columns + 1;
    let mut longest = vec![0_u32; (rows + 1) * width];
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            longest[row * width + column] = if old[row] == new[column] {
                longest[(row + 1) * width + column + 1] + 1
            } else {
                longest[(row + 1) * width + column].max(longest[row * width + column + 1])
            };
        }
    }
    let mut lines = Vec::with_capacity(rows + columns);
    let (mut row, mut column) = (0, 0);
    while row < rows || column < columns {
        let same = row < rows && column < columns && old[row] == new[column];
        let goes = row < rows
            && (column == columns
                || longest[(row + 1) * width + column] >= longest[row * width + column + 1]);
        if same {
            lines.push(Line::Same(offset + row, offset + column));
            row += 1;
            column += 1;
        } else if goes {
            lines.push(Line::Old(offset + row));
            row += 1;
        } else {
            lines.push(Line::New(offset + column));
            column += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_is_shown_with_three_lines_around_it() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let after = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
        assert_eq!(
            unified("/etc/x", before, after),
            "--- a/etc/x\n+++ b/etc/x\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
        );
    }

    #[test]
    fn a_new_file_is_all_added() {
        assert_eq!(unified("/x", "", "a\n"), "--- a/x\n+++ b/x\n@@ -0,0 +1,1 @@\n+a\n");
    }

    #[test]
    fn changes_far_from_each_other_are_two_hunks() {
        let before: String = (0..30).map(|n| format!("{n}\n")).collect();
        let after = before.replace("\n3\n", "\nthree\n").replace("\n25\n", "\n");
        let text = unified("/x", &before, &after);
        assert_eq!(text.matches("@@ -").count(), 2, "{text}");
        assert!(text.contains("-25\n"));
    }

    #[test]
    fn what_moves_the_cursor_is_escaped() {
        assert!(unified("/x", "", "a\x1b[2J\n").contains("+a\\u{1b}[2J\n"));
    }
}

//! Text in columns.

use alloc::string::String;
use alloc::vec::Vec;

/// Rows of cells. The first column is on the left, the others too; each is as wide as its widest cell.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.0.push(cells.into());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.0
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let start = text.len();
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(cell);
                text.extend(core::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            let end = text.trim_end().len().max(start);
            text.truncate(end);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::default();
        table.row(["Name", "ID"].map(String::from));
        table.row(["Domain-0", "0"].map(String::from));
        assert_eq!(table.text(), "Name      ID\nDomain-0  0\n");
    }
}

//! The picture: one panel of bars for each row that people ask for first, as plain SVG.

use std::fmt::Write as _;

use crate::figures::{Better, Figures, Row, Sheet, Spread};
use crate::report::grouped;

const COLUMNS: usize = 2;
/// Pixels.
const PANEL_WIDTH: f64 = 500.0;
const BAR_HEIGHT: f64 = 17.0;
const BAR_GAP: f64 = 6.0;
const NAME_WIDTH: f64 = 150.0;
const BAR_WIDTH: f64 = 250.0;
const TITLE_HEIGHT: f64 = 34.0;
const MARGIN: f64 = 16.0;

/// The whole picture.
pub fn svg(sheet: &Sheet, figures: &Figures) -> String {
    let panels: Vec<Panel> = sheet.panels.iter().filter_map(|id| Panel::new(sheet, sheet.find(id)?, figures)).collect();
    let rows: Vec<&[Panel]> = panels.chunks(COLUMNS).collect();
    let height = MARGIN * 2.0 + rows.iter().map(|row| row_height(row)).sum::<f64>();
    let width = MARGIN * 2.0 + PANEL_WIDTH * 2.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let mut y = MARGIN;
    for row in rows {
        let mut x = MARGIN;
        for panel in row {
            panel.draw(&mut text, x, y);
            x += PANEL_WIDTH;
        }
        y += row_height(row);
    }
    text.push_str("</svg>\n");
    text
}

fn row_height(row: &[Panel]) -> f64 {
    row.iter().map(Panel::height).fold(0.0, f64::max)
}

/// One row of the table as bars.
struct Panel {
    row: &'static Row,
    ours: &'static str,
    bars: Vec<(&'static str, Spread)>,
}

impl Panel {
    /// None if nobody has a value.
    fn new(sheet: &Sheet, row: &'static Row, figures: &Figures) -> Option<Self> {
        let seen = sheet.columns.iter().filter(|name| **name != sheet.unseen);
        let bars: Vec<_> = seen.filter_map(|name| Some((*name, figures.spread(name, row.id)?))).collect();
        (!bars.is_empty()).then_some(Self { row, ours: sheet.ours, bars })
    }

    fn height(&self) -> f64 {
        self.bars.iter().fold(TITLE_HEIGHT + MARGIN, |height, _| height + BAR_HEIGHT + BAR_GAP)
    }

    fn draw(&self, text: &mut String, x: f64, y: f64) {
        let better = match self.row.better {
            Better::Higher => "more is better",
            Better::Lower => "less is better",
            Better::Neither => "",
        };
        // Writing to a string cannot fail.
        _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>\n<text x=\"{x}\" y=\"{:.0}\" fill=\"#666666\" font-size=\"11\">{}{better}</text>",
            y + 10.0,
            self.row.title,
            y + 24.0,
            if self.row.unit.is_empty() { String::new() } else { format!("{}, ", self.row.unit) },
        );
        let largest = self.bars.iter().map(|(_, spread)| spread.high).fold(f64::MIN_POSITIVE, f64::max);
        let mut top = y + TITLE_HEIGHT;
        for bar in &self.bars {
            self.bar(text, (x, top), *bar, BAR_WIDTH / largest);
            top += BAR_HEIGHT + BAR_GAP;
        }
    }

    /// The median as a bar, with a line from the lowest to the highest value.
    fn bar(&self, text: &mut String, (x, y): (f64, f64), (name, spread): (&str, Spread), scale: f64) {
        let colour = if name == self.ours { "#1f6fb2" } else { "#b4bcc4" };
        let (left, middle) = (x + NAME_WIDTH, y + BAR_HEIGHT / 2.0);
        let at = |value: f64| left + value.max(0.0) * scale;
        _ = writeln!(
            text,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n\
             <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"#333333\"/>\n\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            left - 6.0,
            middle + 4.0,
            name,
            at(spread.median) - left,
            at(spread.low),
            at(spread.high),
            at(spread.high) + 6.0,
            middle + 4.0,
            grouped(spread.median, self.row.digits),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_values_has_bars_and_an_empty_panel_is_left_out() {
        let mut figures = Figures::default();
        figures.note(0, "nginx", "rps_64", 40_000.0);
        figures.note(0, "Pointsman", "rps_64", 50_000.0);
        let svg = svg(&crate::contender::SHEET, &figures);
        assert_eq!(svg.matches("<line ").count(), 2);
        assert_eq!(svg.matches("is better").count(), 1);
        assert!(svg.contains(">50,000<") && svg.contains("width=\"250.0\""), "{svg}");
    }
}

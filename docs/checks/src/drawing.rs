//! Pictures from boxes, lines and words, as SVG: readable on light and dark pages, since a picture brings its own ground,
//! and with nothing from elsewhere. Lengths are in pixels.

/// A corner, a size: x, y, width, height.
pub type Area = (i32, i32, i32, i32);
/// A place: x, y.
pub type Point = (i32, i32);

/// Colours of light and dark pages, by what they mean.
const STYLE: &str = "\
text { font: 14px system-ui, sans-serif; fill: #1f2328 }
.strong { font-weight: 600 }
.small { font-size: 12px; fill: #57606a }
.ground { fill: #ffffff; stroke: #d0d7de }
.plain { fill: #f6f8fa; stroke: #6e7781 }
.edge { fill: #ddf4ff; stroke: #0969da }
.stable { fill: #dafbe1; stroke: #1a7f37 }
.canary { fill: #fff1c9; stroke: #9a6700 }
.bad { fill: #ffebe9; stroke: #cf222e }
.area { fill: none; stroke: #8c959f; stroke-dasharray: 6 4 }
.line { fill: none; stroke: #6e7781; stroke-width: 1.6 }
.faint { fill: none; stroke: #d0d7de }
.line.is-stable { stroke: #1a7f37; stroke-width: 2.4 }
.line.is-canary { stroke: #9a6700; stroke-width: 2.4 }
.line.is-bad { stroke: #cf222e; stroke-width: 2.4 }
.dashed { stroke-dasharray: 5 4 }
.head { fill: #6e7781 }
circle.stable { fill: #4ac26b }
circle.canary { fill: #e69500 }
circle.bad { fill: #cf222e }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.ground { fill: #0d1117; stroke: #30363d }
.plain { fill: #161b22; stroke: #8b949e }
.edge { fill: #0c2d6b; stroke: #58a6ff }
.stable { fill: #0f2f1a; stroke: #3fb950 }
.canary { fill: #3a2a05; stroke: #d29922 }
.bad { fill: #4a1513; stroke: #f85149 }
.area { stroke: #6e7681 }
.line { stroke: #8b949e }
.faint { stroke: #30363d }
.line.is-stable { stroke: #3fb950 }
.line.is-canary { stroke: #d29922 }
.line.is-bad { stroke: #f85149 }
.head { fill: #8b949e }
circle.stable { fill: #2ea043 }
circle.canary { fill: #e3a008 }
circle.bad { fill: #f85149 }
}";

/// Where a word stands beside its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It begins there.
    Right,
    /// Its middle is there.
    Middle,
    /// It ends there.
    Left,
}

/// A picture that is being drawn.
#[derive(Debug, Clone)]
pub struct Drawing {
    size: (i32, i32),
    title: &'static str,
    body: String,
}

impl Drawing {
    /// An empty picture; `title` is what a screen reader says of it.
    pub fn new(size: (i32, i32), title: &'static str) -> Self {
        Self { size, title, body: String::new() }
    }

    /// A box with lines of words in its middle, the first one strong. `class` is a colour of the style.
    #[must_use]
    pub fn boxed(mut self, area: Area, class: &str, lines: &[&str]) -> Self {
        let (x, y, width, height) = area;
        self.push(&format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"
        ));
        let count = i32::try_from(lines.len()).unwrap_or(0);
        let first = y + height / 2 + 5 - (count - 1) * 9;
        lines.iter().zip(0..).fold(self, |drawing, (line, index)| {
            let class = if index == 0 { "strong" } else { "small" };
            drawing.words((x + width / 2, first + index * 18), Side::Middle, class, line)
        })
    }

    /// An area that other things stand in, with its name at its top.
    #[must_use]
    pub fn area(mut self, area: Area, name: &str) -> Self {
        let (x, y, width, height) = area;
        self.push(&format!(
            "<rect class=\"area\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"10\"/>"
        ));
        self.words((x + 10, y + 19), Side::Right, "small", name)
    }

    /// Words at a place.
    #[must_use]
    pub fn words(mut self, place: Point, side: Side, class: &str, words: &str) -> Self {
        let anchor = match side {
            Side::Right => "start",
            Side::Middle => "middle",
            Side::Left => "end",
        };
        let (x, y) = place;
        let words = words.replace('&', "&amp;").replace('<', "&lt;");
        self.push(&format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>"));
        self
    }

    /// A line through places.
    #[must_use]
    pub fn line(mut self, class: &str, places: &[Point]) -> Self {
        let points = written(places);
        self.push(&format!("<polyline class=\"line {class}\" points=\"{points}\"/>"));
        self
    }

    /// A line with a head at its last place.
    #[must_use]
    pub fn arrow(mut self, class: &str, places: &[Point]) -> Self {
        let points = written(places);
        self.push(&format!("<polyline class=\"line {class}\" points=\"{points}\" marker-end=\"url(#head)\"/>"));
        self
    }

    /// A dot.
    #[must_use]
    pub fn dot(mut self, (x, y): Point, class: &str) -> Self {
        self.push(&format!("<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"7\"/>"));
        self
    }

    /// The file.
    pub fn svg(self) -> String {
        let (width, height) = self.size;
        let title = self.title;
        format!(
            "<!-- Drawn by docs/checks/src/pictures.rs; UPDATE_DOCS=1 cargo test -p pointsman-docs draws it anew. -->\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
             <title>{title}</title>\n<style>\n{STYLE}\n</style>\n\
             <defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto-start-reverse\" markerUnits=\"userSpaceOnUse\"><path class=\"head\" d=\"M0 0 L8 4 L0 8 z\"/></marker></defs>\n\
             <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n{}</svg>\n",
            width - 1,
            height - 1,
            self.body
        )
    }

    fn push(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }
}

fn written(places: &[Point]) -> String {
    places.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ")
}

//! One page of Markdown, as far as anything here asks for it.

use std::collections::BTreeSet;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// What it leads to, in its order.
    pub links: Vec<Link>,
    /// What a link into it may name after `#`.
    pub anchors: BTreeSet<String>,
    /// Its code blocks, in their order.
    pub blocks: Vec<Block>,
    /// Its code within lines, in their order, each with the line of the page, from 1.
    pub codes: Vec<(String, usize)>,
    /// The text of its first heading.
    pub title: String,
}

/// A link or a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// As it is written.
    pub target: String,
    /// The text that is shown.
    pub text: String,
    /// Whether it is shown in its place rather than followed.
    pub is_picture: bool,
    /// Line of the page, from 1.
    pub line: usize,
}

/// A code block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What stands behind the fence, such as `sh`; empty for an indented block.
    pub language: String,
    /// What stands in it.
    pub text: String,
    /// The comment right before it, which readers do not see and tests obey; none if there is none.
    pub note: Option<String>,
    /// Line of the page where it begins, from 1.
    pub line: usize,
}

impl Page {
    /// Reads `text`.
    pub fn parse(text: &str) -> Self {
        let mut reader = Reader { text, page: Self::default(), open: Vec::new(), note: None };
        for (event, at) in
            Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH).into_offset_iter()
        {
            reader.take(event, &at);
        }
        reader.page
    }
}

/// What has begun and not ended.
enum Open {
    Link(Link),
    Heading { level: HeadingLevel, text: String },
    Block(Block),
}

struct Reader<'a> {
    text: &'a str,
    page: Page,
    open: Vec<Open>,
    note: Option<String>,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, at: &Range<usize>) {
        match event {
            Event::Start(tag) => self.begin(tag, at),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(code) => {
                self.page.codes.push((code.to_string(), self.line(at)));
                self.text(&code);
            }
            Event::Html(html) | Event::InlineHtml(html) => self.html(&html),
            Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::SoftBreak
            | Event::HardBreak
            | Event::Rule
            | Event::TaskListMarker(_) => {}
        }
    }

    fn line(&self, at: &Range<usize>) -> usize {
        self.text.get(..at.start).unwrap_or_default().matches('\n').count() + 1
    }

    fn begin(&mut self, tag: Tag<'_>, at: &Range<usize>) {
        let line = self.line(at);
        let note = if matches!(tag, Tag::HtmlBlock) { None } else { self.note.take() };
        let leading = |target: &str, is_picture| {
            Open::Link(Link { target: target.to_owned(), text: String::new(), is_picture, line })
        };
        if let Tag::Link { dest_url, .. } = &tag {
            self.open.push(leading(dest_url, false));
        } else if let Tag::Image { dest_url, .. } = &tag {
            self.open.push(leading(dest_url, true));
        } else if let Tag::Heading { level, .. } = tag {
            self.open.push(Open::Heading { level, text: String::new() });
        } else if let Tag::CodeBlock(kind) = tag {
            let language = match kind {
                CodeBlockKind::Fenced(info) => info.into_string(),
                CodeBlockKind::Indented => String::new(),
            };
            self.open.push(Open::Block(Block { language, text: String::new(), note, line }));
        }
    }

    fn end(&mut self, tag: TagEnd) {
        if !matches!(tag, TagEnd::Link | TagEnd::Image | TagEnd::Heading(_) | TagEnd::CodeBlock) {
            return;
        }
        match self.open.pop() {
            Some(Open::Link(link)) => self.page.links.push(link),
            Some(Open::Heading { level, text }) => self.heading(level, &text),
            Some(Open::Block(block)) => self.page.blocks.push(block),
            None => {}
        }
    }

    fn heading(&mut self, level: HeadingLevel, text: &str) {
        if level == HeadingLevel::H1 && self.page.title.is_empty() {
            text.clone_into(&mut self.page.title);
        }
        let anchor = anchor(text);
        let again = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|name| !self.page.anchors.contains(name));
        self.page.anchors.extend(free);
    }

    fn text(&mut self, text: &str) {
        for open in &mut self.open {
            match open {
                Open::Link(Link { text: into, .. })
                | Open::Heading { text: into, .. }
                | Open::Block(Block { text: into, .. }) => {
                    into.push_str(text);
                }
            }
        }
    }

    fn html(&mut self, html: &str) {
        let comment = html.trim().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->"));
        if let Some(comment) = comment {
            self.note = Some(comment.trim().to_owned());
        }
        let ids = html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        self.page.anchors.extend(ids.map(str::to_owned));
    }
}

/// What a link names to reach a heading: as mdBook and code hosts make it.
fn anchor(heading: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_whitespace() => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter),
        _ => None,
    };
    heading.trim().to_lowercase().chars().filter_map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gives_links_anchors_and_blocks() {
        let page = Page::parse(
            "# The `first` heading\n\n## Twice\n\n## Twice\n\nA [link](a.md#b) in a line, and ![a picture](c.svg).\n\n<!-- file: x.yaml -->\n```yaml\na: 1\n```\n\n```sh\nls\n```\n\n<a id=\"kept\"></a>\n",
        );
        assert_eq!(page.title, "The first heading");
        let anchors = ["the-first-heading", "twice", "twice-1", "kept"];
        assert_eq!(page.anchors, anchors.map(str::to_owned).into());
        let targets: Vec<&str> = page.links.iter().map(|link| link.target.as_str()).collect();
        assert_eq!(targets, ["a.md#b", "c.svg"]);
        assert_eq!((page.links[1].is_picture, page.links[1].line), (true, 7));
        let blocks: Vec<(&str, Option<&str>, usize)> =
            page.blocks.iter().map(|block| (block.language.as_str(), block.note.as_deref(), block.line)).collect();
        assert_eq!(blocks, [("yaml", Some("file: x.yaml"), 10), ("sh", None, 14)], "a note belongs to one block");
        assert_eq!(page.blocks[0].text, "a: 1\n");
    }

    #[test]
    fn a_note_does_not_leap_over_a_paragraph() {
        let page = Page::parse("<!-- prints -->\n\nwords\n\n```text\nx\n```\n");
        assert_eq!(page.blocks[0].note, None);
    }
}

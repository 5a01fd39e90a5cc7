//! What the documents are held to. [`page`] reads a page: its links, its anchors, its code blocks with the notes that say
//! what a test makes of them. [`tree`] finds the pages, and what a link leads to. [`drawing`] and [`pictures`] draw the
//! pictures of the concepts, so that a picture is changed where its words stand. [`literals`] finds what the program prints, to
//! which quotations are held.

pub mod drawing;
pub mod literals;
pub mod page;
pub mod pictures;
pub mod tree;

//! Trouble that lasts is logged when it begins and when it ends, not each time that it is met.

/// Whether there is trouble.
#[derive(Debug, Default)]
pub(crate) struct Trouble(bool);

impl Trouble {
    /// There is. Gives whether that is news.
    pub(crate) fn is_news(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    /// There is none. Gives whether there was.
    pub(crate) fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.0)
    }
}

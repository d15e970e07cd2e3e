//! What is wrong with a file, in words: a placeholder with the signatures that others call.

/// The mistakes of a configuration file.
#[derive(Clone, Debug)]
pub struct Report {
    text: String,
}

impl Report {
    pub(super) fn new(text: String) -> Self {
        Self { text }
    }

    /// The report for a terminal, with colours or without.
    pub fn render(&self, _colour: bool) -> String {
        self.text.clone()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Report {}

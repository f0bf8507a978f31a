//! The manual pages, from what the program itself goes by: its command line, and the example configuration, which tests
//! hold against the model. For packages: `lamplighter __manual FOLDER`.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{Cli, Exit, Stop};
use crate::settings::example::EXAMPLE;

/// The page of the configuration, in section 5 of the manual.
const CONFIGURATION_PAGE: &str = "lamplighter.toml.5";
/// What a line between dashes is about, such as `# --- Monitors ---`.
const DIVIDER: &str = "--- ";

/// Writes `lamplighter.1`, a page for each command, and `lamplighter.toml.5` into a folder, which is made if need be.
pub(super) fn run(folder: &Path) -> Result<Exit, Stop> {
    let failed = |error| Stop::new(Exit::Failure, format!("{}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    fs::write(folder.join(CONFIGURATION_PAGE), configuration_page(EXAMPLE)).map_err(failed)?;
    Ok(Exit::Ok)
}

/// A line of the example.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// Prose.
    Text(&'a str),
    /// `[section]` or `[[section]]`.
    Section(&'a str),
    /// `key = value`, or a further line of a value.
    Setting(&'a str),
    /// Parts paragraphs.
    Empty,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let prose = line.strip_prefix("# ").or_else(|| line.strip_prefix('#').filter(|rest| rest.is_empty()));
        if let Some(text) = prose {
            return if text.is_empty() { Self::Empty } else { Self::Text(text) };
        }
        match line.strip_prefix('#').unwrap_or(line) {
            "" => Self::Empty,
            section if section.starts_with('[') => Self::Section(section),
            setting => Self::Setting(setting),
        }
    }
}

/// Turns the example into a page: sections become headings, settings terms, and the comment before a setting what it is
/// about.
fn configuration_page(example: &str) -> String {
    let mut page = Page::new();
    for line in example.lines().map(Line::of) {
        page.add(line);
    }
    page.finish()
}

struct Page<'a> {
    roff: Roff,
    /// The comment whose place is not known yet.
    comment: Vec<&'a str>,
    /// Whether the line before was a setting, so that another one belongs to the same comment.
    setting: bool,
}

impl<'a> Page<'a> {
    fn new() -> Self {
        let mut roff = Roff::default();
        roff.control("TH", ["lamplighter.toml", "5", "", concat!("Lamplighter ", env!("CARGO_PKG_VERSION")), ""]);
        roff.control("SH", ["NAME"]);
        roff.text([roman("lamplighter.toml - configuration of lamplighter(1)")]);
        roff.control("SH", ["DESCRIPTION"]);
        Self { roff, comment: Vec::new(), setting: false }
    }

    fn add(&mut self, line: Line<'a>) {
        match line {
            Line::Text(text) if text.starts_with(DIVIDER) => {
                self.paragraph();
                let title = text.trim_matches(['-', ' ']).to_uppercase();
                self.roff.control("SH", [title.as_str()]);
            }
            Line::Text(text) => self.comment.push(text),
            Line::Empty => self.paragraph(),
            Line::Section(name) => {
                // A comment above a section tells what the section is for.
                let above = std::mem::take(&mut self.comment);
                let heading = if name.starts_with("[[") || name.contains('.') { "SS" } else { "SH" };
                self.roff.control(heading, [name]);
                self.comment = above;
                self.paragraph();
            }
            Line::Setting(text) => {
                // Settings without words of their own between them stand one below the other.
                self.roff.control(if self.setting && self.comment.is_empty() { "TQ" } else { "TP" }, []);
                self.roff.text([bold(text)]);
                let about = std::mem::take(&mut self.comment);
                self.setting = true;
                if !about.is_empty() {
                    self.roff.text([roman(about.join(" "))]);
                    self.setting = false;
                }
                return;
            }
        }
        self.setting = false;
    }

    /// What was said before an empty line stands for itself.
    fn paragraph(&mut self) {
        if !self.comment.is_empty() {
            let text: Vec<Inline> = vec![roman(std::mem::take(&mut self.comment).join(" "))];
            self.roff.control("PP", []);
            self.roff.text(text);
        }
    }

    fn finish(mut self) -> String {
        self.paragraph();
        self.roff.control("SH", ["SEE ALSO"]);
        self.roff.text([bold("lamplighter"), roman("(1)")]);
        self.roff.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_example_is_in_the_page() {
        let page = configuration_page(EXAMPLE);
        // As roff escapes them.
        let plain = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\&", "");
        let (plain, mut settings) = (plain.replace("\\*(Aq", "'").replace("\\\\", "\\"), 0);
        for line in EXAMPLE.lines() {
            match Line::of(line) {
                Line::Setting(text) => {
                    settings += 1;
                    assert!(plain.lines().any(|there| there.trim_start() == text.trim_start()), "{text}\n{plain}");
                }
                Line::Section(text) => assert!(plain.contains(text), "{text}"),
                Line::Text(text) if text.starts_with(DIVIDER) => {}
                Line::Text(text) => assert!(plain.contains(text), "{text}"),
                Line::Empty => {}
            }
        }
        assert_eq!(page.lines().filter(|line| line.starts_with(".TP") || line.starts_with(".TQ")).count(), settings);
        assert!(settings > 100, "{settings}");
    }

    #[test]
    fn a_comment_goes_with_the_setting_below_it() {
        let page = configuration_page("# The whole.\n\n[part]\n# Of one.\n#a = 1\n#b = 2\n");
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
        assert!(at("The whole.") < at(".SH [part]"), "{page}");
        assert!(at("a = 1") < at("Of one.") && at("Of one.") < at("b = 2"), "{page}");
    }

    #[test]
    fn there_is_a_page_for_every_command() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(run(&folder.path().join("man")).unwrap(), Exit::Ok);
        let there = |name: &str| folder.path().join("man").join(name).exists();
        assert!(there("lamplighter.1") && there(CONFIGURATION_PAGE));
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(there(&format!("lamplighter-{}.1", command.get_name())), "{}", command.get_name());
        }
    }
}

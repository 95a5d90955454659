//! Live text for people and programs: on a terminal as it grows, elsewhere line by line, or every event as JSON.
//!
//! The contract: on a terminal the last row shows what is being said, stable words plain and tentative ones dim; a
//! final takes its place and is never touched again. Elsewhere only finals and gaps are written. Nothing that a
//! server says can move the cursor. Deliberately absent: words wider than the terminal, of which the end is shown.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use whisperwire_protocol::captions::{self, Caption};
use whisperwire_protocol::stream::{Partial, ServerEvent, ServerMessage};

/// How events are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// On a terminal with this many columns.
    Terminal { columns: usize },
    /// Finals only, one per line.
    Lines,
    /// Every event, one per line.
    Json,
}

/// Shows events, and keeps the finals for caption files.
pub(crate) struct Screen<'a> {
    out: &'a mut dyn Write,
    style: Style,
    /// Whether the last row of the terminal holds something that is to be replaced.
    open: bool,
    captions: Vec<Caption>,
}

impl<'a> Screen<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, style: Style) -> Self {
        Self { out, style, open: false, captions: Vec::new() }
    }

    pub(crate) fn show(&mut self, event: &ServerEvent) -> io::Result<()> {
        if let ServerMessage::Final(text) = &event.message {
            // Caption formats join texts as they are.
            let words = format!(" {}", text.text);
            self.captions.push(Caption { start: text.start, end: text.end, text: words, speaker: None });
        }
        if self.style == Style::Json {
            writeln!(self.out, "{}", event.to_json())?;
            return self.out.flush();
        }
        match &event.message {
            ServerMessage::Final(text) if !text.text.is_empty() => {
                self.line(&format!("{}  {}", clock(text.start), printable(&text.text)))
            }
            ServerMessage::Gap { start, end, reason } => {
                let reason = serde_json::to_value(reason).ok();
                let reason = reason.as_ref().and_then(serde_json::Value::as_str).unwrap_or("unknown");
                self.line(&format!("{}  [no text up to {}: {reason}]", clock(*start), clock(*end)))
            }
            ServerMessage::Partial(partial) => self.growing(partial),
            ServerMessage::Done(_) => self.clear(),
            _ => Ok(()),
        }
    }

    /// Writes the finals so far, as the file's ending says.
    pub(crate) fn save(&self, file: &Path) -> anyhow::Result<()> {
        let text = match Format::of(file)? {
            Format::Srt => captions::srt(&self.captions),
            Format::Vtt => captions::vtt(&self.captions),
            Format::Tsv => captions::tsv(&self.captions),
            Format::Text => captions::text(&self.captions),
        };
        std::fs::write(file, text).map_err(|wrong| anyhow::anyhow!("{}: {wrong}", file.display()))
    }

    /// Takes the growing text away, so that something else can be written.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        if self.open {
            self.open = false;
            write!(self.out, "\r\x1b[K")?;
        }
        self.out.flush()
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.clear()?;
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }

    fn growing(&mut self, partial: &Partial) -> io::Result<()> {
        let Style::Terminal { columns } = self.style else { return Ok(()) };
        if partial.is_empty() {
            return self.clear();
        }
        // The last column stays free: some terminals go to the next row when it is written.
        let (stable, tentative) = (printable(&partial.stable), printable(&partial.tentative));
        let (stable, tentative) = tail(&stable, &tentative, columns.saturating_sub(1));
        write!(self.out, "\r\x1b[K{stable}\x1b[2m{tentative}\x1b[0m")?;
        self.open = true;
        self.out.flush()
    }
}

/// What a caption file's ending asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Srt,
    Vtt,
    Tsv,
    Text,
}

impl Format {
    pub(crate) fn of(file: &Path) -> anyhow::Result<Self> {
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "srt" => Ok(Self::Srt),
            "vtt" => Ok(Self::Vtt),
            "tsv" => Ok(Self::Tsv),
            "txt" => Ok(Self::Text),
            _ => Err(anyhow::anyhow!("{}: the name must end in .srt, .vtt, .tsv or .txt.", file.display())),
        }
    }

    /// For the command line.
    pub(crate) fn checked(name: &str) -> Result<PathBuf, String> {
        let file = PathBuf::from(name);
        Self::of(&file).map(|_| file).map_err(|wrong| wrong.to_string())
    }
}

/// `1:02:03.4`, hours only where there are any.
pub(crate) fn clock(seconds: f64) -> String {
    let tenths = (seconds.max(0.0) * 10.0).round() as u64;
    let (hours, minutes) = (tenths / 36_000, tenths / 600 % 60);
    let rest = format!("{minutes:02}:{:02}.{}", tenths / 10 % 60, tenths % 10);
    if hours > 0 { format!("{hours}:{rest}") } else { rest }
}

/// Without characters that act on a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The end of both texts that fits into so many columns.
fn tail<'a>(stable: &'a str, tentative: &'a str, columns: usize) -> (&'a str, &'a str) {
    let cut = |text: &'a str, room: usize| {
        let mut left = room;
        let mut from = text.len();
        for (at, c) in text.char_indices().rev() {
            match left.checked_sub(cells(c)) {
                Some(rest) => (left, from) = (rest, at),
                None => return (&text[from..], 0),
            }
        }
        (text, left)
    };
    let (tentative, left) = cut(tentative, columns);
    (cut(stable, left).0, tentative)
}

/// Columns of a character: two in the blocks of East Asia and of emoji, none for what is written over others.
fn cells(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// How wide the terminal on standard output is.
pub(crate) fn columns() -> usize {
    #[cfg(unix)]
    let known = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    #[cfg(not(unix))]
    let known = None;
    known.filter(|columns| *columns > 0).unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::said;

    fn partial(stable: &str, tentative: &str) -> ServerMessage {
        let (stable, tentative) = (stable.to_owned(), tentative.to_owned());
        ServerMessage::Partial(Partial { stable, tentative, ..Partial::default() })
    }

    fn shown(style: Style, messages: Vec<ServerMessage>) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, style);
        for message in messages {
            screen.show(&ServerEvent { seq: None, message }).expect("written");
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_terminal_shows_text_while_it_grows() {
        let out = shown(
            Style::Terminal { columns: 20 },
            vec![partial("Good", " mourning"), said(0, "Good morning.", 61.0, 62.0), partial("", "")],
        );
        assert_eq!(out, "\r\x1b[KGood\x1b[2m mourning\x1b[0m\r\x1b[K01:01.0  Good morning.\n");
        let out = shown(Style::Terminal { columns: 8 }, vec![partial("abcdef", " gh\x1b[2J日本")]);
        assert_eq!(out, "\r\x1b[K\x1b[2m2J日本\x1b[0m".replace("2J", "[2J"), "the end, without escapes");
    }

    #[test]
    fn elsewhere_only_what_is_final_is_written() {
        let gap = ServerMessage::Gap {
            start: 1.0,
            end: 2.5,
            reason: serde_json::from_str("\"overload\"").expect("a reason"),
        };
        let messages = vec![partial("Good", ""), said(0, "Good.\u{7}", 0.0, 1.0), gap];
        assert_eq!(
            shown(Style::Lines, messages.clone()),
            "00:00.0  Good. \n00:01.0  [no text up to 00:02.5: overload]\n"
        );
        let json = shown(Style::Json, messages);
        assert_eq!(json.lines().count(), 3);
        assert!(json.starts_with(r#"{"type":"partial""#), "{json}");
    }

    #[test]
    fn captions_are_saved_as_the_name_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, Style::Lines);
        for message in [said(0, "One.", 0.0, 1.0), said(1, "Two.", 2.0, 3.0)] {
            screen.show(&ServerEvent { seq: None, message }).expect("written");
        }
        let save = |name: &str| {
            let file = folder.path().join(name);
            screen.save(&file).expect("saved");
            std::fs::read_to_string(file).expect("saved")
        };
        assert_eq!(save("a.txt"), "One. Two.\n");
        assert!(save("a.SRT").starts_with("1\n00:00:00,000 --> 00:00:01,000\nOne.\n"));
        assert!(save("a.vtt").starts_with("WEBVTT\n\n00:00.000 --> 00:01.000\nOne.\n"));
        assert!(Format::checked("a.doc").is_err() && Format::checked("a").is_err());
    }

    #[test]
    fn times_are_short() {
        assert_eq!(
            (clock(0.04), clock(59.96), clock(3_725.5)),
            ("00:00.0".into(), "01:00.0".into(), "1:02:05.5".into())
        );
        assert_eq!(clock(f64::NAN), "00:00.0");
    }
}

//! Timed text as SubRip, WebVTT, TSV and plain text, byte for byte as OpenAI's `whisper` writes them.
//!
//! Milliseconds are the nearest to the time in seconds, halves to the even one. A caption that holds only white
//! space is left out, `-->` inside a text would read as a cue's header and becomes `->`, and an end before its start
//! is moved to the start. A line break inside a text becomes a space, because an empty line ends a cue. Deliberately
//! absent: breaking long captions into lines, and joining short ones.

/// A stretch of text, where it was heard, and who said it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caption {
    /// In seconds; a negative time or NaN counts as zero.
    pub start: f64,
    /// In seconds; never before `start` when written.
    pub end: f64,
    /// As it was recognised, the leading space included.
    pub text: String,
    /// Who spoke, where it is known. Written before the text.
    pub speaker: Option<String>,
}

/// SubRip: numbered from 1, hours always, a comma before the milliseconds.
pub fn srt(captions: &[Caption]) -> String {
    let mut out = String::new();
    for (n, cue) in cues(captions).enumerate() {
        let number = n + 1;
        let (start, end) = (srt_time(cue.start), srt_time(cue.end));
        out += &format!("{number}\n{start} --> {end}\n{}\n\n", arrowless(&cue.line()));
    }
    out
}

/// WebVTT: a header, hours only where there are any, a point before the milliseconds. A speaker becomes a voice tag.
pub fn vtt(captions: &[Caption]) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for cue in cues(captions) {
        let text = match cue.speaker {
            Some(speaker) => format!("<v {}>{}", speaker.replace(['<', '>', '&'], ""), cue.text),
            None => cue.text,
        };
        out += &format!("{} --> {}\n{}\n\n", vtt_time(cue.start), vtt_time(cue.end), arrowless(&text));
    }
    out
}

/// Tab separated values with a header: start and end in milliseconds, and the text.
pub fn tsv(captions: &[Caption]) -> String {
    let mut out = String::from("start\tend\ttext\n");
    for cue in cues(captions) {
        out += &format!("{}\t{}\t{}\n", cue.start, cue.end, cue.line().replace('\t', " "));
    }
    out
}

/// The bare words and one line break at the end. Texts are joined as they are, because they bring their own spaces;
/// where speakers are known, each turn has a line of its own.
pub fn text(captions: &[Caption]) -> String {
    let mut out = String::new();
    let mut speaking: Option<&str> = None;
    for caption in captions.iter().filter(|caption| !caption.text.trim().is_empty()) {
        match caption.speaker.as_deref() {
            Some(speaker) if speaking != Some(speaker) => {
                out.truncate(out.trim_end().len());
                if !out.is_empty() {
                    out.push('\n');
                }
                out += &format!("{}: {}", one_line(speaker), caption.text.trim_start());
                speaking = Some(speaker);
            }
            _ => out += &caption.text,
        }
    }
    format!("{}\n", out.trim())
}

/// A caption made ready to be written.
struct Cue {
    start: u64,
    end: u64,
    text: String,
    speaker: Option<String>,
}

impl Cue {
    fn line(&self) -> String {
        match &self.speaker {
            Some(speaker) => format!("{speaker}: {}", self.text),
            None => self.text.clone(),
        }
    }
}

fn cues(captions: &[Caption]) -> impl Iterator<Item = Cue> {
    captions.iter().filter(|caption| !caption.text.trim().is_empty()).map(|caption| {
        let start = millis(caption.start);
        let speaker = caption.speaker.as_deref().map(one_line).filter(|speaker| !speaker.is_empty());
        Cue { start, end: millis(caption.end).max(start), text: one_line(&caption.text), speaker }
    })
}

/// Without space at its edges and without line breaks.
fn one_line(text: &str) -> String {
    text.trim().replace("\r\n", " ").replace(['\n', '\r'], " ")
}

/// Without anything that reads as the arrow of a cue's header. Longer arrows need several rounds.
fn arrowless(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("-->") {
        text = text.replace("-->", "->");
    }
    text
}

/// Halves go to the even neighbour, as Python rounds. The cast saturates, and makes NaN zero.
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0).round_ties_even() as u64
}

fn srt_time(ms: u64) -> String {
    format!("{:02}:{}", ms / 3_600_000, minutes(ms, ','))
}

fn vtt_time(ms: u64) -> String {
    if ms < 3_600_000 { minutes(ms, '.') } else { format!("{:02}:{}", ms / 3_600_000, minutes(ms, '.')) }
}

fn minutes(ms: u64, point: char) -> String {
    format!("{:02}:{:02}{point}{:03}", ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption(start: f64, end: f64, text: &str) -> Caption {
        Caption { start, end, text: text.into(), speaker: None }
    }

    fn said_by(speaker: &str, start: f64, end: f64, text: &str) -> Caption {
        Caption { speaker: Some(speaker.into()), ..caption(start, end, text) }
    }

    #[test]
    fn subrip_is_written_byte_for_byte() {
        let captions = [caption(0.0, 4.0, " Text"), caption(4.0, 3725.0626, " a --> b\n\nc ")];
        assert_eq!(
            srt(&captions),
            "1\n00:00:00,000 --> 00:00:04,000\nText\n\n2\n00:00:04,000 --> 01:02:05,063\na -> b  c\n\n"
        );
        assert_eq!(srt(&[]), "");
    }

    #[test]
    fn webvtt_has_hours_only_where_there_are_any() {
        let captions = [caption(0.0, 4.0, " Text"), caption(3599.9996, 3600.5, " more ---> text")];
        assert_eq!(
            vtt(&captions),
            "WEBVTT\n\n00:00.000 --> 00:04.000\nText\n\n01:00:00.000 --> 01:00:00.500\nmore -> text\n\n"
        );
        assert_eq!(vtt(&[]), "WEBVTT\n\n");
    }

    #[test]
    fn tab_separated_values_are_in_milliseconds() {
        let captions = [caption(0.0125, 4.0, " one\ttwo"), caption(4.0, 5.0, "  ")];
        assert_eq!(tsv(&captions), "start\tend\ttext\n12\t4000\tone two\n");
    }

    #[test]
    fn plain_text_joins_without_inventing_spaces() {
        assert_eq!(text(&[caption(0.0, 1.0, " Good"), caption(1.0, 2.0, " day.")]), "Good day.\n");
        assert_eq!(text(&[caption(0.0, 1.0, "今日"), caption(1.0, 2.0, "は")]), "今日は\n");
        assert_eq!(text(&[]), "\n");
        let turns = [
            said_by("A", 0.0, 1.0, " Hi,"),
            said_by("A", 1.0, 2.0, " you."),
            said_by("B", 2.0, 3.0, " Yes?"),
        ];
        assert_eq!(text(&turns), "A: Hi, you.\nB: Yes?\n");
    }

    #[test]
    fn speakers_stand_before_their_words() {
        let turns = [said_by("A", 0.0, 1.0, " Hi.")];
        assert_eq!(srt(&turns), "1\n00:00:00,000 --> 00:00:01,000\nA: Hi.\n\n");
        assert_eq!(vtt(&turns), "WEBVTT\n\n00:00.000 --> 00:01.000\n<v A>Hi.\n\n");
    }

    #[test]
    fn nonsense_times_and_empty_texts_do_no_harm() {
        let captions = [
            caption(0.0, 1.0, " "),
            caption(2.0, 1.0, "back"),
            caption(-3.0, f64::NAN, "nowhere"),
            caption(0.0, f64::INFINITY, "forever"),
        ];
        let written = srt(&captions);
        assert!(
            written
                .starts_with("1\n00:00:02,000 --> 00:00:02,000\nback\n\n2\n00:00:00,000 --> 00:00:00,000\n")
        );
        assert_eq!(written.matches(" --> ").count(), 3);
    }
}

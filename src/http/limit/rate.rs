//! How much of something is allowed in which time, as people write it.

use std::fmt;
use std::str::FromStr;

/// The longest window: two of them must pass until a key that rests is forgotten.
const LONGEST_MS: u64 = 31 * 86_400_000;
/// The most that can be allowed: what a script in Redis can count exactly, and more than anybody needs.
const MOST: u64 = 1_000_000_000_000;

/// So much within so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How much.
    pub amount: u64,
    /// Within so many milliseconds.
    pub window: u64,
}

/// Several rates that hold at once, the shortest window first and no window twice; without any there is no limit.
/// Written as `10/minute,50/hour`, `10 per minute`, `100/5minutes`, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates(Vec<Rate>);

impl Rates {
    /// All of them.
    pub fn all(&self) -> &[Rate] {
        &self.0
    }

    /// The same in parts of what is counted: milliseconds in place of seconds, for example.
    #[must_use]
    pub fn in_parts(&self, parts: u64) -> Self {
        Self(self.0.iter().map(|rate| Rate { amount: rate.amount * parts, ..*rate }).collect())
    }
}

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if ["none", "unlimited"].iter().any(|none| text.trim().eq_ignore_ascii_case(none)) {
            return Ok(Self::default());
        }
        let mut rates: Vec<Rate> = Vec::new();
        for part in text.split([',', ';']) {
            let rate: Rate = part.parse()?;
            match rates.iter_mut().find(|other| other.window == rate.window) {
                Some(other) => other.amount = other.amount.min(rate.amount),
                None => rates.push(rate),
            }
        }
        rates.sort_by_key(|rate| rate.window);
        Ok(Self(rates))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{:?} is no limit: write 10/minute, 10 per minute or 100/5minutes", text.trim());
        let lower = text.to_ascii_lowercase();
        let (amount, window) =
            lower.split_once('/').or_else(|| lower.split_once(" per ")).ok_or_else(wrong)?;
        let amount: u64 = amount.trim().parse().map_err(|_| wrong())?;
        let window = window.trim();
        let digits = window.find(|c: char| !c.is_ascii_digit()).unwrap_or(window.len());
        let (count, unit) = window.split_at(digits);
        let count: u64 = if count.is_empty() { 1 } else { count.parse().map_err(|_| wrong())? };
        let unit = match unit.trim() {
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            _ => return Err(wrong()),
        };
        let window = count.checked_mul(unit).filter(|window| (1..=LONGEST_MS).contains(window));
        match (amount, window) {
            (1..=MOST, Some(window)) => Ok(Self { amount, window }),
            (_, None) => Err(format!("{:?}: the time must be at most 31 days, and not nothing", text.trim())),
            _ => Err(format!("{:?}: the amount must be from 1 to {MOST}", text.trim())),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second")];
        let (unit, name) = UNITS
            .into_iter()
            .find(|(unit, _)| self.window.is_multiple_of(*unit))
            .unwrap_or((1, "millisecond"));
        match self.window / unit {
            1 => write!(f, "{} per {name}", self.amount),
            count => write!(f, "{} per {count} {name}s", self.amount),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(u64, u64)>, String> {
        Ok(text.parse::<Rates>()?.all().iter().map(|rate| (rate.amount, rate.window / 1_000)).collect())
    }

    #[test]
    fn limits_are_read_as_people_write_them() {
        assert_eq!(read("10/minute,50/hour"), Ok(vec![(10, 60), (50, 3_600)]));
        assert_eq!(read(" 50 per hour ; 10 per Minute"), Ok(vec![(10, 60), (50, 3_600)]));
        assert_eq!(read("1/s,2/m,3/h,4/d"), Ok(vec![(1, 1), (2, 60), (3, 3_600), (4, 86_400)]));
        assert_eq!(read("10/5minutes"), Ok(vec![(10, 300)]));
        assert_eq!(read("10 per 5 minutes, 7/300s"), Ok(vec![(7, 300)]), "one window, the stricter amount");
        assert_eq!(read("none"), Ok(vec![]));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for text in
            ["", "10", "ten/minute", "10/", "10/fortnight", "10/minute,", "10//minute", "-1/minute", "10/5ms"]
        {
            assert!(read(text).is_err_and(|why| why.contains("is no limit")), "{text}");
        }
        for text in ["0/minute", "10/0minutes", "10/40days", "9999999999999/day", "1/99999999999999999days"] {
            assert!(read(text).is_err_and(|why| why.contains("must be")), "{text}");
        }
    }

    #[test]
    fn limits_are_told_in_words() {
        let told = |text: &str| text.parse::<Rate>().map(|rate| rate.to_string());
        assert_eq!(told("10/minute"), Ok("10 per minute".into()));
        assert_eq!(told("10/300s"), Ok("10 per 5 minutes".into()));
        assert_eq!(told("3600/hour"), Ok("3600 per hour".into()));
    }
}

//! The function `strftime_now`: a local time without a zone, in the C locale, as Python on Linux writes it.

use minijinja::Error;

use super::broken;

/// The time as `datetime.strftime` writes it.
pub(crate) fn strftime(time: &jiff::Zoned, format: &str) -> Result<String, Error> {
    let mut result = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        result.push_str(&rest[..at]);
        let directive = &rest[at + 1..];
        let n_flags = run(directive, |c| "-_0^#".contains(c));
        let n_width = run(&directive[n_flags..], |c| c.is_ascii_digit());
        let n_modifier = run(&directive[n_flags + n_width..], |c| "EO".contains(c)).min(1);
        let head = n_flags + n_width + n_modifier;
        let letter = directive[head..].chars().next();
        let text = letter.and_then(|letter| field(time, letter, head > 0));
        let (Some(letter), Some((mut text, pad, width))) = (letter, text) else {
            // What glibc does not know stays as it is.
            let end = head + letter.map_or(0, char::len_utf8);
            result.push('%');
            result.push_str(&directive[..end]);
            rest = &directive[end..];
            continue;
        };
        let mut pad = Some(pad);
        for flag in directive[..n_flags].chars() {
            match flag {
                '-' => pad = None,
                '_' => pad = Some(' '),
                '0' => pad = Some('0'),
                '^' => text = text.to_uppercase(),
                // The other case: large letters, but small ones for the half of the day and the zone.
                _other if letter == 'p' => text = text.to_lowercase(),
                _other if "aAbBh".contains(letter) => text = text.to_uppercase(),
                _other => {}
            }
        }
        let asked: usize = directive[n_flags..n_flags + n_width].parse().unwrap_or(0);
        if asked > MAX_WIDTH {
            return broken("a width of strftime_now is too large");
        }
        if let Some(fill) = pad {
            let n_fill = asked.max(width).saturating_sub(text.chars().count());
            result.extend(std::iter::repeat_n(fill, n_fill));
        }
        result.push_str(&text);
        rest = &directive[head + letter.len_utf8()..];
    }
    result.push_str(rest);
    Ok(result)
}

fn run(text: &str, is_one: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_one(c)).unwrap_or(text.len())
}

/// A letter's text, what it is filled with and to which width.
fn field(time: &jiff::Zoned, letter: char, is_modified: bool) -> Option<(String, char, usize)> {
    let number = |n: i64, width| Some((n.to_string(), '0', width));
    let blank = |n: i64, width| Some((n.to_string(), ' ', width));
    let words = |text: String| Some((text, ' ', 0));
    let part = |format: &str| words(strftime(time, format).unwrap_or_default());
    let weekday = time.weekday();
    let from_sunday = i64::from(weekday.to_sunday_zero_offset());
    let from_monday = i64::from(weekday.to_monday_zero_offset());
    let day_of_year = i64::from(time.day_of_year());
    let hour = i64::from(time.hour());
    let half = if hour % 12 == 0 { 12 } else { hour % 12 };
    let year = i64::from(time.year());
    let iso = time.date().iso_week_date();
    match letter {
        'a' => words(time.strftime("%a").to_string()),
        'A' => words(time.strftime("%A").to_string()),
        'b' | 'h' => words(time.strftime("%b").to_string()),
        'B' => words(time.strftime("%B").to_string()),
        'c' => part("%a %b %e %H:%M:%S %Y"),
        'C' => number(year.div_euclid(100), 2),
        'd' => number(time.day().into(), 2),
        'D' | 'x' => part("%m/%d/%y"),
        'e' => blank(time.day().into(), 2),
        // Python writes it itself, and only without flags.
        'f' if !is_modified => number(i64::from(time.subsec_nanosecond()) / 1000, 6),
        'F' => part("%Y-%m-%d"),
        'g' => number(i64::from(iso.year()).rem_euclid(100), 2),
        'G' => number(iso.year().into(), 0),
        'H' => number(hour, 2),
        'I' => number(half, 2),
        'j' => number(day_of_year, 3),
        'k' => blank(hour, 2),
        'l' => blank(half, 2),
        'm' => number(time.month().into(), 2),
        'M' => number(time.minute().into(), 2),
        'n' => words("\n".to_owned()),
        'p' => words(if hour < 12 { "AM" } else { "PM" }.to_owned()),
        'P' => words(if hour < 12 { "am" } else { "pm" }.to_owned()),
        'r' => part("%I:%M:%S %p"),
        'R' => part("%H:%M"),
        's' => number(time.timestamp().as_second(), 0),
        'S' => number(time.second().into(), 2),
        't' => words("\t".to_owned()),
        'T' | 'X' => part("%H:%M:%S"),
        'u' => number(from_monday + 1, 0),
        'U' => number((day_of_year + 6 - from_sunday) / 7, 2),
        'V' => number(iso.week().into(), 2),
        'w' => number(from_sunday, 0),
        'W' => number((day_of_year + 6 - from_monday) / 7, 2),
        'y' => number(year.rem_euclid(100), 2),
        'Y' => number(year, 0),
        // The time has no zone.
        'z' | 'Z' => words(String::new()),
        '%' => words("%".to_owned()),
        _other => None,
    }
}

const MAX_WIDTH: usize = 1000;

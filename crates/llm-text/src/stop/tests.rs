use super::*;
use proptest::prelude::*;

/// All that is printed, and whether a stop string was met.
fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
    let mut watch = StopStrings::new(stops.iter().map(|s| s.to_string()).collect());
    let mut printed = String::new();
    for piece in pieces {
        match watch.push(piece) {
            StopOutcome::Continue(text) => printed.push_str(&text),
            StopOutcome::Stop(text) => return (printed + &text, true),
        }
    }
    (printed + &watch.finish(), false)
}

/// The same by looking at every beginning of the whole text.
fn naive(stops: &[&str], text: &str) -> (String, bool) {
    for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let ending = stops.iter().filter(|stop| text[..end].ends_with(*stop));
        if let Some(longest) = ending.map(|stop| stop.len()).max() {
            return (text[..end - longest].to_owned(), true);
        }
    }
    (text.to_owned(), false)
}

#[test]
fn stops_are_cut_off_and_near_misses_are_not() {
    struct Case {
        stops: &'static [&'static str],
        pieces: &'static [&'static str],
        printed: &'static str,
        hit: bool,
    }
    let cases = [
        Case {
            stops: &[],
            pieces: &["a", "", "b"],
            printed: "ab",
            hit: false,
        },
        Case {
            stops: &["END"],
            pieces: &["the EN", "D of"],
            printed: "the ",
            hit: true,
        },
        Case {
            stops: &["END"],
            pieces: &["the EN", "E"],
            printed: "the ENE",
            hit: false,
        },
        Case {
            stops: &["END"],
            pieces: &["the EN"],
            printed: "the EN",
            hit: false,
        },
        Case {
            stops: &["aab"],
            pieces: &["a", "a", "a", "b"],
            printed: "a",
            hit: true,
        },
        Case {
            stops: &["abcd", "bc"],
            pieces: &["abc", "d"],
            printed: "a",
            hit: true,
        },
        Case {
            stops: &["bc", "abc"],
            pieces: &["xabc"],
            printed: "x",
            hit: true,
        },
        Case {
            stops: &["é\n"],
            pieces: &["é", "é", "\n"],
            printed: "é",
            hit: true,
        },
    ];
    for case in cases {
        let expected = (case.printed.to_owned(), case.hit);
        assert_eq!(run(case.stops, case.pieces), expected, "{:?}", case.pieces);
    }
}

#[test]
fn only_a_possible_beginning_is_held_back() {
    let mut watch = StopStrings::new(vec!["\nUser:".to_owned()]);
    assert_eq!(
        watch.push("Hi\nUse"),
        StopOutcome::Continue("Hi".to_owned())
    );
    assert_eq!(
        watch.push("ful"),
        StopOutcome::Continue("\nUseful".to_owned())
    );
    assert_eq!(watch.push("\nUser: x"), StopOutcome::Stop(String::new()));
    assert_eq!(watch.push("more"), StopOutcome::Stop(String::new()));
    assert_eq!(watch.finish(), "");
}

proptest! {
    #[test]
    fn equals_the_naive_search(
        stops in prop::collection::vec("[ab€]{1,4}", 0..4),
        pieces in prop::collection::vec("[abc€]{0,5}", 0..12),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        prop_assert_eq!(run(&stops, &pieces), naive(&stops, &pieces.concat()));
    }
}

use proptest::prelude::*;

use super::*;
use crate::SpecialTokens;
use crate::byte_level::byte_of;
use crate::tokenizer::testing::{
    fixture_tokenizers, model_tokenizers, other_decoders, tokenizer_of,
};

/// Every id by itself through the stream; each piece must be whole characters, which `String` sees to.
fn stream(tokenizer: &Tokenizer, ids: &[u32], special: SpecialText) -> String {
    let mut detokenizer = tokenizer.detokenizer_with(special);
    let mut text = String::new();
    for &id in ids {
        text.push_str(&detokenizer.push(id).unwrap());
    }
    text + &detokenizer.finish().unwrap()
}

fn check(tokenizer: &Tokenizer, ids: &[u32]) {
    for special in [SpecialText::Skip, SpecialText::Keep] {
        let at_once = tokenizer.decode(ids, special).unwrap();
        assert_eq!(stream(tokenizer, ids, special), at_once, "{ids:?}");
    }
}

#[test]
fn every_byte_has_its_character() {
    let spelled = (0..=0x143).filter_map(char::from_u32).filter_map(byte_of);
    let mut bytes: Vec<u8> = spelled.collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    assert_eq!(byte_of('Ġ'), Some(b' '));
    assert_eq!(byte_of('Ċ'), Some(b'\n'));
    assert_eq!(byte_of('\u{144}'), None);
}

#[test]
fn half_a_character_is_held_back() {
    let text = "🙂é€";
    for (name, tokenizer) in fixture_tokenizers() {
        let ids = tokenizer.encode(text, SpecialTokens::AsIs).unwrap();
        assert!(ids.len() > text.chars().count(), "{name} has no such bytes");
        let mut detokenizer = tokenizer.detokenizer();
        let pieces: Vec<String> = ids
            .iter()
            .map(|&id| detokenizer.push(id).unwrap())
            .collect();
        let rest = detokenizer.finish().unwrap();
        assert!(!pieces.concat().contains('\u{fffd}'), "{name}: {pieces:?}");
        assert_eq!(pieces.concat() + &rest, text, "{name}");
    }
}

#[test]
fn byte_level_characters_come_out_with_their_last_byte() {
    let tokenizer = tokenizer_of("byte-level");
    let ids = tokenizer.encode("🙂", SpecialTokens::AsIs).unwrap();
    assert_eq!(ids.len(), 4);
    let mut detokenizer = tokenizer.detokenizer();
    let pieces: Vec<String> = ids
        .iter()
        .map(|&id| detokenizer.push(id).unwrap())
        .collect();
    assert_eq!(pieces, ["", "", "", "🙂"]);
}

#[test]
fn an_incomplete_rest_is_a_replacement_character() {
    for (_, tokenizer) in fixture_tokenizers() {
        let ids = tokenizer.encode("a🙂", SpecialTokens::AsIs).unwrap();
        for n in 0..=ids.len() {
            check(tokenizer, &ids[..n]);
        }
    }
}

#[test]
fn spaces_at_the_beginning_are_those_of_decode() {
    for text in ["", " ", "  ", "   a", " a b", "a  b ", "\n a"] {
        for (_, tokenizer) in fixture_tokenizers() {
            for special in [SpecialTokens::Add, SpecialTokens::AsIs] {
                check(tokenizer, &tokenizer.encode(text, special).unwrap());
            }
        }
    }
}

#[test]
fn an_unknown_id_changes_nothing() {
    for (name, tokenizer) in fixture_tokenizers() {
        let ids = tokenizer.encode("a 🙂", SpecialTokens::AsIs).unwrap();
        let mut detokenizer = tokenizer.detokenizer();
        let mut text = String::new();
        for &id in &ids {
            let error = detokenizer.push(u32::MAX).unwrap_err();
            assert!(
                matches!(error, TextError::UnknownId { id: u32::MAX, .. }),
                "{name}"
            );
            text.push_str(&detokenizer.push(id).unwrap());
        }
        assert_eq!(text + &detokenizer.finish().unwrap(), "a 🙂");
    }
}

#[test]
fn a_long_run_of_bytes_comes_while_it_is_made() {
    let text = "\u{4e2d}\u{6587}\u{5b57}\u{7b26}\u{6e2c}\u{8a66}🙂🙃é".repeat(5);
    for (name, tokenizer) in fixture_tokenizers() {
        let ids = tokenizer.encode(&text, SpecialTokens::AsIs).unwrap();
        let mut detokenizer = tokenizer.detokenizer();
        let (mut out, mut n_tokens) = (String::new(), 0);
        for &id in &ids {
            n_tokens += 1;
            out.push_str(&detokenizer.push(id).unwrap());
            assert!(text.starts_with(&out), "{name}: {out}");
            assert!(out.len() + 24 >= n_tokens, "{name}: {out}");
        }
        assert_eq!(out + &detokenizer.finish().unwrap(), text, "{name}");
    }
}

#[test]
fn what_is_out_of_a_run_stays_when_the_run_breaks() {
    let tokenizer = tokenizer_of("sentencepiece");
    let byte = |byte: u8| tokenizer.token_id(&format!("<0x{byte:02X}>")).unwrap();
    let bytes = |text: &str| text.bytes().map(byte).collect::<Vec<_>>();
    let letter = tokenizer.token_id("a").unwrap();
    struct Case {
        ids: Vec<u32>,
        text: String,
    }
    let (whole, bad) = ("\u{4e2d}".repeat(7), "\u{fffd}");
    // Of 21 bytes, 15 are held back.
    let out = "\u{4e2d}".repeat(2);
    let cases = [
        Case {
            ids: [bytes(&whole), vec![byte(0xff), byte(0x41), letter]].concat(),
            text: format!("{out}{}a", bad.repeat(17)),
        },
        Case {
            ids: [bytes(&whole), vec![byte(0xe4), letter]].concat(),
            text: format!("{out}{}a", bad.repeat(16)),
        },
        Case {
            ids: [bytes(&whole), vec![byte(0xe4)]].concat(),
            text: format!("{out}{}", bad.repeat(16)),
        },
        Case {
            ids: [vec![letter], bytes(&whole), vec![letter], bytes("é")].concat(),
            text: format!("a{whole}aé"),
        },
    ];
    for case in cases {
        let text = stream(&tokenizer, &case.ids, SpecialText::Skip);
        assert_eq!(text, case.text);
    }
}

#[test]
fn long_texts_take_constant_work_per_token() {
    // Quadratic work would take minutes here: broken bytes without end, and text without end.
    for (name, tokenizer) in fixture_tokenizers() {
        let stray = tokenizer.encode("🙂", SpecialTokens::AsIs).unwrap()[1];
        let text = tokenizer.encode("the light ", SpecialTokens::AsIs).unwrap();
        for ids in [vec![stray; 200_000], text.repeat(50_000)] {
            let at_once = tokenizer.decode(&ids, SpecialText::Skip).unwrap();
            assert!(
                stream(tokenizer, &ids, SpecialText::Skip) == at_once,
                "{name}"
            );
        }
    }
}

proptest! {
    #[test]
    fn pieces_make_the_whole(seeds in prop::collection::vec(any::<u32>(), 0..40)) {
        let fixtures = fixture_tokenizers().iter().map(|(_, tokenizer)| tokenizer);
        for tokenizer in fixtures.chain(other_decoders()).chain(model_tokenizers()) {
            let size = u32::try_from(tokenizer.vocab_size()).unwrap();
            let ids: Vec<u32> = seeds.iter().map(|seed| seed % size).collect();
            check(tokenizer, &ids);
        }
    }

    #[test]
    fn cleaned_up_pieces_make_the_whole(pieces in prop::collection::vec("[ .,?!'nmtsrvea]{0,4}", 0..12)) {
        let mut cleanup = Cleanup::default();
        let mut text: String = pieces.iter().map(|piece| cleanup.push(piece)).collect();
        text.push_str(&cleanup.finish(""));
        prop_assert_eq!(text, crate::tokenizer::cleanup(&pieces.concat()));
    }

    #[test]
    fn byte_level_text_comes_back(text in ".{0,30}") {
        for name in ["byte-level", "vocab-merges", "byte-level GGUF"] {
            let (_, tokenizer) = fixture_tokenizers().iter().find(|(n, _)| *n == name).unwrap();
            let ids = tokenizer.encode(&text, SpecialTokens::AsIs).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), text.as_str());
        }
    }

    #[test]
    fn pieces_make_the_whole_of_real_text(text in "[ a-zé€🙂\n]{0,30}") {
        for (_, tokenizer) in fixture_tokenizers() {
            check(tokenizer, &tokenizer.encode(&text, SpecialTokens::Add).unwrap());
        }
    }
}

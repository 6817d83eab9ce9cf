//! Bytes that tokens spell by themselves, against the text that they make together.

use std::path::Path;

use llm_text::{SpecialTokens, Tokenizer};

#[test]
fn tokens_spell_the_text_that_they_make() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/text");
    for name in ["byte-level", "sentencepiece"] {
        let tokenizer = Tokenizer::from_folder(&fixtures.join(name)).unwrap();
        for text in [
            "The lamp is lit.",
            "{\"a\": [1, true]}\n",
            "é 猫 🦀",
            "two  spaces",
        ] {
            let ids = tokenizer.encode(text, SpecialTokens::AsIs).unwrap();
            assert!(ids.iter().all(|&id| !tokenizer.is_special(id)), "{name}");
            let bytes = ids
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id).unwrap());
            let spelled = String::from_utf8(bytes.collect()).unwrap();
            // SentencePiece has every text begin with a space, which it takes away again.
            let spelled = spelled.strip_prefix(' ').unwrap_or(&spelled);
            assert_eq!(spelled, text, "{name}");
        }
        let past = u32::try_from(tokenizer.vocab_size()).unwrap();
        assert_eq!(tokenizer.token_bytes(past), None);
        let end = tokenizer.eos_ids()[0];
        assert!(tokenizer.is_special(end), "{name}");
    }
}

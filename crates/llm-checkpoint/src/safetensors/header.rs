use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::pairs::Pairs;

/// A header as written, nothing checked but that it is JSON of the right form.
#[derive(Default)]
pub(super) struct RawHeader<'h> {
    pub(super) tensors: Vec<(String, HeaderEntry<'h>)>,
    /// `__metadata__`; keys may repeat.
    pub(super) metadata: Vec<(String, String)>,
}

#[derive(Deserialize)]
pub(super) struct HeaderEntry<'h> {
    #[serde(borrow)]
    pub(super) dtype: Cow<'h, str>,
    pub(super) shape: Vec<u64>,
    /// Begin and end, counted from the end of the header.
    pub(super) data_offsets: (u64, u64),
}

/// # Errors
/// The parser's, with the name of the tensor whose entry it was in.
pub(super) fn parse(json: &[u8]) -> Result<RawHeader<'_>, (Option<String>, serde_json::Error)> {
    // The format wants `{` first; the parser would skip blanks before it.
    if json.first() != Some(&b'{') {
        return Err((None, Error::custom("it does not begin with `{`")));
    }
    let mut filler = Filler::default();
    let mut parser = serde_json::Deserializer::from_slice(json);
    match parser
        .deserialize_map(&mut filler)
        .and_then(|()| parser.end())
    {
        Ok(()) => Ok(filler.header),
        Err(error) => Err((filler.inside, error)),
    }
}

/// Fills a header entry by entry, in one pass and without a tree of JSON values in between.
#[derive(Default)]
struct Filler<'de> {
    header: RawHeader<'de>,
    /// The tensor whose entry is being read.
    inside: Option<String>,
}

impl<'de> Visitor<'de> for &mut Filler<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if has_metadata {
                    return Err(Error::custom("`__metadata__` appears twice"));
                }
                has_metadata = true;
                // Null says as little as no entry; the reference implementation takes it, too.
                let metadata = map.next_value::<Option<Pairs>>()?;
                self.header.metadata = metadata.unwrap_or_default().0;
            } else {
                let name = self.inside.insert(name);
                let tensor = map.next_value()?;
                self.header.tensors.push((std::mem::take(name), tensor));
                self.inside = None;
            }
        }
        Ok(())
    }
}

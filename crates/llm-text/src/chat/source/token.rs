//! The words of a template.

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text between tags.
    Data(String),
    BlockBegin,
    BlockEnd,
    PrintBegin,
    PrintEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

impl Token {
    /// The token in an error's words.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Data(_) => "text".to_owned(),
            Token::BlockBegin => "{%".to_owned(),
            Token::BlockEnd => "%}".to_owned(),
            Token::PrintBegin => "{{".to_owned(),
            Token::PrintEnd => "}}".to_owned(),
            Token::Name(name) => name.clone(),
            Token::Str(_) => "a string".to_owned(),
            Token::Int(_) | Token::Float(_) => "a number".to_owned(),
            Token::Operator(op) => (*op).to_owned(),
            Token::End => "the end of the template".to_owned(),
        }
    }
}

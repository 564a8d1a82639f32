//! A spec file that a person wrote has line breaks; a record has one line.

/// Drops the white space between the tokens of a JSON text (RFC 8259, section 2), and changes nothing else.
pub fn on_one_line(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    text.chars()
        .filter(|c| {
            if in_string {
                (in_string, escaped) = (escaped || *c != '"', !escaped && *c == '\\');
                return true;
            }
            in_string = *c == '"';
            !matches!(c, ' ' | '\t' | '\n' | '\r')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn strings_and_numbers_stay_as_they_are() {
        let text = "{ \"a b\" : [ 1e400,\n\t\"x \\\" y\\\\\" , \" \" ] }\r\n";
        assert_eq!(super::on_one_line(text), r#"{"a b":[1e400,"x \" y\\"," "]}"#);
    }
}

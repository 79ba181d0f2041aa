//! Parses the groups of fields in machine-readable reports (RFC 3464 §2.1): header fields, with
//! blank lines between the groups.

/// The most groups, and the most fields of a group, that are read.
const MOST_GROUPS: usize = 200;
const MOST_FIELDS: usize = 64;

/// One field, its name in lower case.
type FieldPair = (String, String);

/// Groups of fields.
#[derive(Debug, Default)]
pub(super) struct FieldGroups(pub Vec<Vec<FieldPair>>);

impl FieldGroups {
    pub(super) fn read(content: &[u8]) -> Self {
        let text = String::from_utf8_lossy(content);
        let mut groups = vec![Vec::<FieldPair>::new()];
        for line in text.lines() {
            let Some(group) = groups.last_mut() else {
                break;
            };
            if line.trim().is_empty() {
                if !group.is_empty() {
                    if groups.len() == MOST_GROUPS {
                        break;
                    }
                    groups.push(Vec::new());
                }
            } else if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = group.last_mut()
                    && value.len() < 8 * super::TEXT_CHARACTERS
                {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':')
                && group.len() < MOST_FIELDS
            {
                let name = name.trim().to_ascii_lowercase();
                group.push((name, value.trim().to_owned()));
            }
        }

        FieldGroups(groups)
    }

    /// The value of the first field with this name, in any group.
    pub(super) fn first(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|group| field(group, name))
    }
}

/// The value of the group's first field with this name.
pub(super) fn field(group: &[FieldPair], name: &str) -> Option<String> {
    let found = group.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.clone())
}

/// The address in a field such as `rfc822; ada@example.org`, in lower case.
pub(super) fn address(value: &str) -> Option<String> {
    let (_, address) = value.split_once(';').unwrap_or(("", value));
    let address = address.split('(').next().unwrap_or_default();
    let address = address.trim().trim_matches(['<', '>', '"']).to_lowercase();
    let is_one = address.contains('@') && address.len() <= 320;
    is_one.then_some(address)
}

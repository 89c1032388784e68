//! Finds requests that differ in nothing but contents, such as the bytes of tensors, and a text.
//!
//! Nothing here knows what a message means, but for protobuf's wire format: where a message has its
//! contents, and the text that its answer repeats. All other bytes are compared as they are, so
//! that who understands one request of a group understands them all.

use std::collections::HashMap;
use std::ops::Range;

use http::HeaderMap;

use super::fields::Fields;

/// What has more entries than this is no simple request.
const MOST_ENTRIES: usize = 16;
/// What has a longer text to be echoed is no simple request.
const LONGEST_ECHO: usize = 1024;

/// Where a method's requests have their contents, and what else has to be alike.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Where contents are. Any bytes are as good as others there.
    pub contents: Vec<ContentPath>,
    /// The field of the request that has a text of each caller's own, which its answer repeats.
    pub echo: Option<u32>,
    /// The metadata that the answer depends on.
    pub metadata: Vec<String>,
    /// Larger requests are not compared.
    pub most_bytes: usize,
}

/// Where a request has contents.
#[derive(Clone, Debug, Default)]
pub struct ContentPath {
    /// The fields that lead there from the request. The first may be repeated; each of the others is
    /// there once. The last is the content itself.
    pub fields: Vec<u32>,
    /// The field that names each message that the first field leads to, as the key of a
    /// map's entry does. No two have the same name. None: the first field is the content itself.
    pub key: Option<u32>,
}

/// A content, and what has it. Ranges are those in the message without the echo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The number of its path in the shape.
    pub path: usize,
    /// Where the name is of the message that has it.
    pub key: Option<Range<usize>>,
    /// Where the content is.
    pub bytes: Range<usize>,
}

/// The field of a request that its answer repeats, as it is on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Where it is in the message.
    pub at: usize,
    /// Tag, length and text; empty where the request has none.
    pub field: Box<[u8]>,
}

impl Echo {
    /// Return where something is in the message, by where it is in the message without the echo.
    #[must_use]
    pub fn moved(&self, range: &Range<usize>) -> Range<usize> {
        let by = if range.start >= self.at {
            self.field.len()
        } else {
            0
        };
        range.start.saturating_add(by)..range.end.saturating_add(by)
    }
}

/// A request, cut into contents, an echo, and all else.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// Equal for requests that differ in nothing but the bytes of contents, and the echo.
    pub template: Vec<u8>,
    /// At least one, in their order. Requests with equal templates have them at the same places.
    pub contents: Vec<Content>,
    /// What the answer repeats.
    pub echo: Echo,
}

/// Cut a request; None where it has no contents, or is not of the simple form.
pub fn cut(shape: &Shape, method: usize, headers: &HeaderMap, message: &[u8]) -> Option<Cut> {
    if message.len() > shape.most_bytes {
        return None;
    }
    let (mut contents, echo) = found(shape, message)?;
    if contents.is_empty() {
        return None;
    }
    let mut template = Vec::with_capacity(message.len().min(256) + 16 * shape.metadata.len());
    put(&mut template, method);
    for name in &shape.metadata {
        let mut count = 0;
        for value in headers.get_all(name) {
            count += 1;
            template.extend_from_slice(value.as_bytes());
            put(&mut template, value.len());
        }
        // Lengths and counts come last: read from its end, a template says one thing only.
        put(&mut template, count);
    }
    let mut kept_from = 0;
    for content in &contents {
        keep(
            &mut template,
            message,
            kept_from..content.bytes.start,
            &echo,
        )?;
        kept_from = content.bytes.end;
    }
    keep(&mut template, message, kept_from..message.len(), &echo)?;
    let echo = Echo {
        at: echo.start,
        field: message.get(echo)?.into(),
    };
    for content in &mut contents {
        content.key = content.key.as_ref().map(|key| without(key, &echo));
        content.bytes = without(&content.bytes, &echo);
        put(&mut template, content.bytes.start);
        put(&mut template, content.bytes.len());
    }
    put(&mut template, contents.len());
    put(&mut template, message.len() - echo.field.len());
    Some(Cut {
        template,
        contents,
        echo,
    })
}

fn put(template: &mut Vec<u8>, number: usize) {
    template.extend_from_slice(&(number as u64).to_le_bytes());
}

/// Put a part of the message into the template, all but the echo, which no content has a part of.
fn keep(
    template: &mut Vec<u8>,
    message: &[u8],
    part: Range<usize>,
    echo: &Range<usize>,
) -> Option<()> {
    if part.contains(&echo.start) {
        template.extend_from_slice(message.get(part.start..echo.start)?);
        template.extend_from_slice(message.get(echo.end..part.end)?);
    } else {
        template.extend_from_slice(message.get(part)?);
    }
    Some(())
}

/// The opposite of `Echo::moved`.
fn without(range: &Range<usize>, echo: &Echo) -> Range<usize> {
    let by = if range.start > echo.at {
        echo.field.len()
    } else {
        0
    };
    range.start.saturating_sub(by)..range.end.saturating_sub(by)
}

/// What came alike, or is like nothing.
#[derive(Debug)]
pub enum Came<T> {
    /// Not of the simple form.
    Single(T),
    /// One or more, in their order, with the cut that all of them have.
    Group(Members<T>, Box<Cut>),
}

/// What came alike, each with its echo.
pub type Members<T> = Vec<(T, Echo)>;

/// Put together what came alike, each group where the first of it came.
pub fn grouped<T>(came: impl IntoIterator<Item = (T, Option<Box<Cut>>)>) -> Vec<Came<T>> {
    let mut all: Vec<(Members<T>, Option<Box<Cut>>)> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    for (item, cut) in came {
        let Some(mut cut) = cut else {
            all.push((vec![(item, Echo::default())], None));
            continue;
        };
        let member = (item, std::mem::take(&mut cut.echo));
        match places
            .get(&cut.template)
            .and_then(|place| all.get_mut(*place))
        {
            Some((members, _)) => members.push(member),
            None => {
                // It comes back below, without a copy.
                places.insert(std::mem::take(&mut cut.template), all.len());
                all.push((vec![member], Some(cut)));
            }
        }
    }
    for (template, place) in places {
        if let Some((_, Some(cut))) = all.get_mut(place) {
            cut.template = template;
        }
    }
    all.into_iter()
        .filter_map(|(mut members, cut)| match cut {
            Some(cut) => Some(Came::Group(members, cut)),
            None => members.pop().map(|(item, _)| Came::Single(item)),
        })
        .collect()
}

/// Find contents and the echo, as they are in the message.
fn found(shape: &Shape, message: &[u8]) -> Option<(Vec<Content>, Range<usize>)> {
    let mut contents: Vec<Content> = Vec::new();
    let mut keys: Vec<(u32, Range<usize>)> = Vec::new();
    let mut echo = None;
    let mut fields = Fields::new(message, 0..message.len());
    loop {
        let at = fields.at;
        let Some(field) = fields.next()? else {
            break;
        };
        if Some(field.number) == shape.echo {
            let text = message.get(field.bytes?)?;
            // Protobuf has its say about the text of the first request alone.
            let is_simple =
                !text.is_empty() && text.len() <= LONGEST_ECHO && std::str::from_utf8(text).is_ok();
            if !is_simple || echo.replace(at..fields.at).is_some() {
                return None;
            }
            continue;
        }
        let mut paths = shape.contents.iter().enumerate();
        let first = paths.find(|(_, path)| path.fields.first() == Some(&field.number));
        let Some((path, first)) = first else {
            continue;
        };
        if contents.len().max(keys.len()) >= MOST_ENTRIES {
            return None;
        }
        let bytes = field.bytes?;
        let Some(key) = first.key else {
            // An empty one has its place among the others all the same.
            if bytes.is_empty() {
                return None;
            }
            contents.push(Content {
                path,
                key: None,
                bytes,
            });
            continue;
        };
        let entry = Entry::read(shape, message, bytes, field.number, key)?;
        // Of equal keys protobuf takes the last, or merges them.
        if keys.iter().any(|(number, other)| {
            *number == field.number && message.get(other.clone()) == message.get(entry.key.clone())
        }) {
            return None;
        }
        keys.push((field.number, entry.key.clone()));
        if let Some((path, bytes)) = entry.content {
            contents.push(Content {
                path,
                key: Some(entry.key),
                bytes,
            });
        }
    }
    Some((contents, echo.unwrap_or(message.len()..message.len())))
}

/// A message that has a name, and a content at most.
struct Entry {
    key: Range<usize>,
    /// None: it has none, or an empty one.
    content: Option<(usize, Range<usize>)>,
}

impl Entry {
    /// None where it has no name, or has twice what should be there once.
    fn read(
        shape: &Shape,
        message: &[u8],
        within: Range<usize>,
        number: u32,
        key: u32,
    ) -> Option<Self> {
        let (mut name, mut content) = (None, None);
        let mut fields = Fields::new(message, within.clone());
        while let Some(field) = fields.next()? {
            if field.number == key && name.replace(field.bytes?).is_some() {
                return None;
            }
        }
        search(shape, message, within, &[number], &mut content)?;
        Some(Self {
            key: name?,
            content: content.filter(|(_, bytes)| !bytes.is_empty()),
        })
    }
}

/// Find the only content in a message that these fields lead to.
fn search(
    shape: &Shape,
    message: &[u8],
    within: Range<usize>,
    led_by: &[u32],
    content: &mut Option<(usize, Range<usize>)>,
) -> Option<()> {
    let depth = led_by.len();
    let mut seen = 0u64;
    let mut fields = Fields::new(message, within);
    while let Some(field) = fields.next()? {
        let next = shape.contents.iter().enumerate().find(|(_, path)| {
            path.fields.get(..depth) == Some(led_by)
                && path.fields.get(depth) == Some(&field.number)
        });
        let Some((number, path)) = next else {
            continue;
        };
        let step = 1u64.checked_shl(u32::try_from(number).ok()?)?;
        if seen & step != 0 {
            return None;
        }
        seen |= step;
        let bytes = field.bytes?;
        if path.fields.len() > depth + 1 {
            search(shape, message, bytes, path.fields.get(..=depth)?, content)?;
        } else if content.replace((number, bytes)).is_some() {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let path = |fields: &[u32], key| ContentPath {
            fields: fields.to_vec(),
            key,
        };
        Shape {
            contents: vec![
                path(&[2, 2, 4], Some(1)),
                path(&[2, 2, 5], Some(1)),
                path(&[5, 5, 6], Some(1)),
                path(&[7], None),
            ],
            echo: Some(6),
            metadata: vec!["key".to_owned()],
            most_bytes: 1 << 16,
        }
    }

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut all = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap_or(0)];
        all.extend_from_slice(bytes);
        all
    }

    fn tensor(content: &[u8]) -> Vec<u8> {
        [&[8, 1][..], &field(2, b"shape"), &field(4, content)].concat()
    }

    fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
        field(2, &[field(1, key), field(2, value)].concat())
    }

    fn request(content: &[u8]) -> Vec<u8> {
        [field(1, b"model"), entry(b"x", &tensor(content))].concat()
    }

    fn cut_of(message: &[u8]) -> Option<Cut> {
        cut(&shape(), 3, &HeaderMap::new(), message)
    }

    fn headers(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().copied().map(http::HeaderValue::from_static);
        values
            .map(|value| (http::HeaderName::from_static("key"), value))
            .collect()
    }

    #[test]
    fn requests_are_alike_that_differ_in_contents_alone() {
        let one = cut_of(&request(b"abcd"));
        assert!(one.is_some());
        assert_eq!(one, cut_of(&request(b"\x00\xff\x08\x01")));
        let (contents, message) = (one.map(|cut| cut.contents), request(b"abcd"));
        let found = contents.unwrap_or_default();
        let [content] = &found[..] else {
            unreachable!("one content");
        };
        assert_eq!(content.path, 0);
        assert_eq!(read(&message, content.key.as_ref()), b"x");
        assert_eq!(read(&message, Some(&content.bytes)), b"abcd");
    }

    fn read<'a>(message: &'a [u8], range: Option<&Range<usize>>) -> &'a [u8] {
        let part = range.and_then(|range| message.get(range.clone()));
        part.unwrap_or_default()
    }

    /// A tensor whose name is its own, and whose content is a level further down.
    fn nested(name: &[u8], content: &[u8]) -> Vec<u8> {
        let inside = field(5, &field(6, content));
        field(5, &[field(1, name), field(2, b"FP32"), inside].concat())
    }

    #[test]
    fn contents_are_found_wherever_the_shape_has_them() {
        let message = [
            nested(b"x", b"ab"),
            entry(b"x", &tensor(b"cd")),
            field(7, b"ef"),
            nested(b"y", b"gh"),
            field(7, b"ij"),
        ]
        .concat();
        let found: Vec<(usize, &[u8], &[u8])> = cut_of(&message)
            .iter()
            .flat_map(|cut| &cut.contents)
            .map(|content| {
                let key = read(&message, content.key.as_ref());
                (content.path, key, read(&message, Some(&content.bytes)))
            })
            .collect();
        let expected: [(usize, &[u8], &[u8]); 5] = [
            (2, b"x", b"ab"),
            (0, b"x", b"cd"),
            (3, b"", b"ef"),
            (2, b"y", b"gh"),
            (3, b"", b"ij"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn requests_are_alike_whatever_is_to_be_echoed_and_wherever_it_is() {
        let parts = [field(1, b"model"), nested(b"x", b"ab"), field(7, b"cd")];
        let expected: Vec<&[u8]> = vec![b"ab", b"cd"];
        let plain = cut_of(&parts.concat()).map(|cut| cut.template);
        assert!(plain.is_some());
        let long = vec![b'a'; LONGEST_ECHO];
        let text: Vec<u8> = [&[6 << 3 | 2, 0x80, 8][..], &long].concat();
        for echo in [field(6, b"1"), field(6, "größer".as_bytes()), text, vec![]] {
            for at in 0..=parts.len() {
                let mut pieces = parts.to_vec();
                pieces.insert(at, echo.clone());
                let message = pieces.concat();
                let Some(cut) = cut_of(&message) else {
                    unreachable!("it is of the simple form");
                };
                assert_eq!(Some(&cut.template), plain.as_ref());
                assert_eq!(cut.echo.field.to_vec(), echo);
                let found: Vec<&[u8]> = cut
                    .contents
                    .iter()
                    .map(|content| read(&message, Some(&cut.echo.moved(&content.bytes))))
                    .collect();
                assert_eq!(found, expected);
                let key = cut.contents.first().and_then(|content| content.key.clone());
                let key = key.map(|key| cut.echo.moved(&key));
                assert_eq!(read(&message, key.as_ref()), b"x");
            }
        }
    }

    #[test]
    fn what_can_not_be_echoed_is_none() {
        let long = vec![b'a'; LONGEST_ECHO + 1];
        let too_long: Vec<u8> = [&[6 << 3 | 2, 0x81, 8][..], &long].concat();
        for echo in [
            field(6, b""),
            field(6, b"\xff"),
            field(6, b"\xed\xa0\x80"), // half of a pair of surrogates
            [field(6, b"a"), field(6, b"a")].concat(),
            vec![6 << 3, 1],
            too_long,
        ] {
            assert_eq!(cut_of(&[request(b"abcd"), echo].concat()), None);
        }
    }

    #[test]
    fn all_else_tells_requests_apart() {
        let of = |method, headers: &[&'static str], message: &[u8]| {
            cut(&shape(), method, &self::headers(headers), message).map(|cut| cut.template)
        };
        let [x, y] = [entry(b"x", &tensor(b"ab")), entry(b"y", &tensor(b"cdef"))];
        let templates = [
            of(3, &[], &request(b"abcd")),
            of(4, &[], &request(b"abcd")),
            of(3, &[""], &request(b"abcd")),
            of(3, &["a"], &request(b"abcd")),
            of(3, &["a", ""], &request(b"abcd")),
            of(3, &["", "a"], &request(b"abcd")),
            of(3, &[], &request(b"abc")),
            of(3, &[], &[request(b"abcd"), vec![24, 1]].concat()),
            of(3, &[], &[vec![24, 1], request(b"abcd")].concat()),
            of(3, &[], &entry(b"x", &tensor(b"abcd"))),
            of(3, &[], &entry(b"z", &tensor(b"abcd"))),
            of(3, &[], &entry(b"x", &field(4, b"abcd"))),
            of(3, &[], &entry(b"x", &field(5, b"abcd"))),
            of(3, &[], &[x.clone(), y.clone()].concat()),
            of(3, &[], &[y, x].concat()),
            of(3, &[], &nested(b"x", b"abcd")),
            of(3, &[], &nested(b"y", b"abcd")),
            of(3, &[], &nested(b"x", b"abc")),
            of(3, &[], &field(7, b"abcd")),
            of(3, &[], &[field(7, b"ab"), field(7, b"cd")].concat()),
            of(3, &[], &[field(7, b"a"), field(7, b"bcd")].concat()),
            of(3, &[], &[nested(b"x", b""), field(7, b"abcd")].concat()),
            of(
                3,
                &[],
                &field(
                    2,
                    &[field(1, b"x"), field(2, &tensor(b"abcd")), field(3, b"")].concat(),
                ),
            ),
        ];
        assert!(templates.iter().all(Option::is_some));
        for (at, one) in templates.iter().enumerate() {
            assert!(
                !templates.iter().skip(at + 1).any(|other| one == other),
                "{at}"
            );
        }
    }

    #[test]
    fn what_is_not_of_the_simple_form_is_none() {
        let x = tensor(b"abcd");
        for message in [
            vec![],
            field(1, b"model"),
            entry(b"x", &field(2, b"shape")), // no content
            entry(b"x", &field(4, b"")),      // an empty one
            entry(b"x", &[x.clone(), field(4, b"a")].concat()), // two
            entry(b"x", &[x.clone(), field(5, b"abcd")].concat()), // in two fields
            entry(b"x", &[x.clone(), vec![5 << 3 | 5, 0, 0, 0, 0]].concat()), // unpacked
            [entry(b"x", &x), entry(b"x", &x)].concat(), // a key twice
            field(2, &field(1, b"x")),        // no value
            field(2, &field(2, &x)),          // no key
            field(2, &[field(1, b"x"), field(1, b"x"), field(2, &x)].concat()),
            field(2, &[field(1, b"x"), field(2, &x), field(2, &x)].concat()),
            field(7, b""),                              // an empty one that has no name
            [field(7, b"a"), vec![7 << 3, 1]].concat(), // no bytes
            [nested(b"x", b"ab"), nested(b"x", b"")].concat(), // a name twice
            field(5, &field(5, &field(6, b"ab"))),      // no name
            field(
                5,
                &[
                    field(1, b"x"),
                    field(5, &field(6, b"")),
                    field(5, &field(6, b"ab")),
                ]
                .concat(),
            ),
            field(
                5,
                &[
                    field(1, b"x"),
                    field(5, &[field(6, b"ab"), field(6, b"")].concat()),
                ]
                .concat(),
            ),
            field(
                5,
                &[field(1, b"x"), field(5, &[6 << 3 | 5, 0, 0, 0, 0])].concat(),
            ), // unpacked
            [request(b"abcd"), vec![0, 0]].concat(), // no field has the number 0
            [request(b"abcd"), vec![3 << 3 | 3]].concat(), // a group
            [request(b"abcd"), vec![3 << 3 | 7]].concat(), // no wire type
            [request(b"abcd"), vec![0x98, 0]].concat(), // longer than it need be
            [request(b"abcd"), vec![3 << 3]].concat(), // cut off
            [request(b"abcd"), vec![3 << 3 | 2, 1]].concat(),
            [request(b"abcd"), vec![3 << 3 | 1, 1]].concat(),
        ] {
            assert_eq!(cut_of(&message), None, "{message:?}");
        }
        let many = |count| -> Vec<u8> { (0..count).flat_map(|key| entry(&[key], &x)).collect() };
        assert!(cut_of(&many(16)).is_some());
        assert_eq!(cut_of(&many(17)), None);
        let many = |count| -> Vec<u8> { (0..count).flat_map(|_| field(7, b"a")).collect() };
        assert!(cut_of(&many(16)).is_some());
        assert_eq!(cut_of(&many(17)), None);
    }

    #[test]
    fn larger_requests_are_not_compared() {
        let message = request(b"abcd");
        let shape = Shape {
            most_bytes: message.len() - 1,
            ..shape()
        };
        assert_eq!(cut(&shape, 3, &HeaderMap::new(), &message), None);
    }

    #[test]
    fn a_cut_request_is_whole_again_with_its_contents() {
        let message = [entry(b"x", &tensor(b"ab")), request(b"cd")].concat();
        assert_eq!(cut_of(&message), None, "x twice");
        let message = [entry(b"y", &tensor(b"ab")), request(b"cdef")].concat();
        for end in 0..message.len() {
            // Whatever is cut off: it is none, or the cut of a shorter message.
            if let Some(cut) = cut_of(message.get(..end).unwrap_or_default()) {
                assert!(cut.contents.iter().all(|content| content.bytes.end <= end));
            }
        }
    }

    #[test]
    fn groups_stand_where_their_first_came() {
        let cut = |content: &[u8]| cut_of(&request(content)).map(Box::new);
        let came = grouped([
            (0, cut(b"a")),
            (1, None),
            (2, cut(b"ab")),
            (3, cut(b"b")),
            (4, None),
            (5, cut(b"abc")),
            (6, cut(b"cd")),
            (7, cut(b"c")),
        ]);
        let order: Vec<Vec<i32>> = came
            .into_iter()
            .map(|came| match came {
                Came::Single(item) => vec![item],
                Came::Group(items, cut) => {
                    assert_eq!(cut.contents.len(), 1);
                    assert!(!cut.template.is_empty());
                    items.into_iter().map(|(item, _)| item).collect()
                }
            })
            .collect();
        assert_eq!(
            order,
            [vec![0, 3, 7], vec![1], vec![2, 6], vec![4], vec![5]]
        );
    }
}

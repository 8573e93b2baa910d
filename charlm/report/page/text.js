// Texts as tokens, and as people see them: charlm/text/tokenizer.py, records.py and charlm/report/words.py.

const INVISIBLE = '\u00ad\u180e\u200c\u200d';  // format characters that words are spelt with
const SIGNS = /[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u{110bd}\u{110cd}\u{e0020}-\u{e007f}]/u;
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/u;
const END_OF_TEXT = '\x03';
const BLANK_LINES = /(?:\r?\n[ \t]*){2,}/;
export const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;  // Python's
export const IDEOGRAPH = /[\u3005-\u3007\u3041-\u3096\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{323af}]/u;

// What stands for a character where each has to be seen.
export function sign(character) {
  if (character === '\n') return '↵';
  if (!HIDDEN.test(character) || INVISIBLE.includes(character) || SIGNS.test(character)) return character;
  const point = character.codePointAt(0);
  if (point < 32) return point === 9 ? '␉' : String.fromCharCode(0x2400 + point);
  return point === 127 ? '␡' : `⟨U+${point.toString(16).toUpperCase().padStart(4, '0')}⟩`;
}

// A text in a sentence or a list.
export const shown = text => Array.from(text, sign).join('').replace(/ /g, '␣');

// Unicode text: lone surrogates become U+FFFD.
export const wellFormed = text => text.replace(/\p{Cs}/gu, '\ufffd');

// One token for each character of the vocabulary; the start has id V, any other character V + 1.
class Characters {
  constructor(vocabulary, escape) {
    this.pieces = Array.from(vocabulary);
    this.size = this.pieces.length;
    this.ids = new Map(this.pieces.map((character, id) => [character, id]));
    this.knownNats = -Math.log1p(-escape);
    const others = 0x110000 - 0x800 - this.size;
    this.unseenNats = escape && others ? Math.log(others / escape) : Infinity;
  }

  encode(text) {
    return Array.from(text, character => this.ids.get(character) ?? this.size + 1);
  }

  // How many tokens a character has.
  tokens() {
    return 1;
  }

  name(id) {
    const character = this.pieces[id];
    if (character === undefined) return 'unknown';
    if (!INVISIBLE.includes(character)) return shown(character);
    return 'U+' + character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
  }

  // A function from tokens to the text that each completes.
  stream() {
    return id => this.pieces[id];
  }
}

// One token for each byte of UTF-8.
class Bytes {
  constructor() {
    this.size = 256;
    this.knownNats = 0;
    this.unseenNats = Infinity;
  }

  encode(text) {
    return Array.from(new TextEncoder().encode(text));
  }

  tokens(character) {
    const point = character.codePointAt(0);
    return point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  }

  name(id) {
    return id < 128 ? shown(String.fromCharCode(id)) : 'byte ' + id.toString(16).toUpperCase();
  }

  stream() {
    const decoder = new TextDecoder('utf-8', {ignoreBOM: true}), byte = new Uint8Array(1);
    return id => {
      byte[0] = id;
      return decoder.decode(byte, {stream: true});
    };
  }
}

export function tokenizerOf({kind, vocabulary, escape}) {
  return kind === 'char' ? new Characters(vocabulary, escape) : new Bytes();
}

// The character behind each record; nothing where a text is one.
export const endOf = records => records === 'none' ? '' : records === 'line' ? '\n' : END_OF_TEXT;

// A text as a model of records reads it: a list of records, each with its end.
export function recordsOf(text, records) {
  if (records === 'none') return [text];
  const end = endOf(records);
  if (records !== 'line') text = text.replaceAll(end, '');
  const parts = records === 'line' ? text.split('\n').map(line => line.replace(/\r$/, ''))
    : records === 'paragraph' ? text.split(BLANK_LINES).map(part => part.replace(/^[\r\n]+|[\r\n]+$/g, '')) : [text];
  return parts.filter(part => Array.from(part).some(character => !SPACE.test(character))).map(part => part + end);
}

// The batch tab, first part: the table of the selected batch's results. `element` is the tab's host.
const PAGE_ROWS = 100;
const LABELS = ['Yes', 'No', 'Maybe'];
const LANGUAGE = document.documentElement.lang || 'en';

const find = (selector) => element.querySelector(selector);
const write = (name, text = '') => {
  const place = find(`[data-text="${name}"]`);
  if (place.textContent !== text) place.textContent = text;
};
const words = JSON.parse(find('#batch').dataset.words);
const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? '…');
const count = new Intl.NumberFormat(LANGUAGE).format;
const percent = new Intl.NumberFormat(LANGUAGE, {style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1}).format;
// Never rounded to 0% or 100%: the model is not certain.
const share = (value) => value < .0005 && value > 0 ? `<${percent(.001)}` : value > .9995 && value < 1 ? `>${percent(.999)}` : percent(value);

// Foreign text is only ever set as text, never as HTML.
const make = (tag, className = '', ...content) => {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...content);
  return made;
};

const results = new Map();  // a row's position → the row
const lines = new Map();  // a row → its <tr>
let pictures = '';  // where their pictures are
let order = {key: 'line', descending: false};
let page = 0;
let last = 0;  // the position of the last row that was fetched

const doubtOf = (row) => {
  const [first, second] = Object.values(row.scores).sort((a, b) => b - a);
  return 1 - (first - second);
};

const addResult = (row) => {
  row.doubt = row.label ? doubtOf(row) : null;
  row.sought = [row.text, row.image, row.id].join('\n').toLowerCase();
  results.set(row.row, row);
  last = Math.max(last, row.row);
};

const clearResults = (pictureBase) => {
  pictures = pictureBase;
  results.clear();
  lines.clear();
  page = last = 0;
};

const isKind = (row, kind) =>
  kind === 'all' || (kind === 'errors' ? !row.label : row.label === kind || row.decision === kind);

const VALUES = {
  line: (row) => row.line,
  label: (row) => row.label ? LABELS.indexOf(row.label) : null,
  score: (row) => row.label ? row.score : null,
  doubt: (row) => row.doubt,
};

// Rows without a value come last in both directions.
const compare = (a, b) => {
  const [one, other] = [VALUES[order.key](a), VALUES[order.key](b)];
  if (one === null || other === null) return (one === null) - (other === null) || a.row - b.row;
  return (order.descending ? other - one : one - other) || a.row - b.row;
};

const cell = (name, ...content) => {
  const made = make('td', `batch-${name}`, ...content);
  made.setAttribute('role', 'cell');
  return made;
};

// Codes of rows whose picture cannot be shown, as it is missing or unreadable.
const PICTURELESS = /image|read|malformed|line|columns/;

const pictureOf = (row) => {
  const image = make('img');
  image.loading = 'lazy';
  image.alt = '';
  image.width = image.height = 56;
  image.addEventListener('error', () => image.remove());
  image.src = pictures + row.row;
  return image;
};

const barsOf = (row) => make('ul', 'batch-bars', ...LABELS.map((label) => {
  const fill = make('i');
  fill.style.width = `${100 * row.scores[label]}%`;
  const chosen = label === row.label ? ' bar-chosen' : '';
  return make('li', `bar-${label.toLowerCase()}${chosen}`,
    make('span', '', words[label]), make('span', 'batch-track', fill), make('span', '', share(row.scores[label])));
}));

const lineOf = (row) => {
  if (lines.has(row)) return lines.get(row);
  const made = make('tr', row.label ? '' : 'batch-failed');
  made.setAttribute('role', 'row');
  const about = [row.id, row.image.startsWith('data:') ? '' : row.image].filter(Boolean).join(' · ');
  const sentence = cell('sentence', make('span', '', row.text ?? ''), make('small', '', about));
  const kind = row.label ? row.label.toLowerCase() : 'error';
  const verdict = cell('verdict', make('span', `batch-mark batch-${kind}`, words[row.label] ?? words.error));
  if (!row.label) sentence.append(make('span', 'batch-reason', words[`row.${row.code}`] ?? row.error ?? row.reason ?? ''));
  if (words[row.decision]) verdict.append(make('span', 'batch-mark batch-decision', words[row.decision]));
  made.append(cell('line', count(row.line)), cell('picture', ...(PICTURELESS.test(row.code ?? '') ? [] : [pictureOf(row)])), sentence, verdict,
    cell('score', row.label ? share(row.score) : ''), cell('doubt', row.label ? share(row.doubt) : ''),
    cell('probabilities', ...(row.label ? [barsOf(row)] : [])));
  lines.set(row, made);
  return made;
};

const showKinds = (all) => {
  for (const label of element.querySelectorAll('[data-kind]')) {
    const matching = all.filter((row) => isKind(row, label.dataset.kind)).length;
    label.querySelector('b').textContent = count(matching);
    label.hidden = ['review', 'reject'].includes(label.dataset.kind) && !matching;
  }
};

const showResults = () => {
  const {elements} = find('.batch-filters');
  const kind = elements['batch-kind'].value, least = elements.doubt.value / 100;
  const sought = elements.search.value.trim().toLowerCase();
  const all = [...results.values()];
  const found = all.filter((row) => isKind(row, kind) && (!least || row.doubt >= least) && row.sought.includes(sought));
  found.sort(compare);
  page = Math.max(0, Math.min(page, Math.ceil(found.length / PAGE_ROWS) - 1));
  const first = page * PAGE_ROWS, shown = found.slice(first, first + PAGE_ROWS);
  const body = find('.batch-table tbody'), now = shown.map(lineOf);
  if (now.length !== body.children.length || now.some((line, index) => line !== body.children[index])) body.replaceChildren(...now);
  showKinds(all);
  write('doubt', say('doubt_from', {percent: `${elements.doubt.value}%`}));
  write('range', shown.length ? say('range', {from: count(first + 1), to: count(first + shown.length), count: count(found.length)}) : '');
  write('empty', found.length ? '' : say(all.length ? 'none_match' : 'none_yet'));
  find('[data-do="previous"]').disabled = !page;
  find('[data-do="next"]').disabled = first + PAGE_ROWS >= found.length;
  find('.batch-pages').hidden = found.length <= PAGE_ROWS;
  for (const head of element.querySelectorAll('[data-sort]')) {
    const direction = order.descending ? 'descending' : 'ascending';
    head.setAttribute('aria-sort', head.dataset.sort === order.key ? direction : 'none');
  }
};

const sortBy = (key) => {
  // The first click shows the most doubtful rows first.
  const descending = key === order.key ? !order.descending : key === 'doubt';
  order = {key, descending};
  page = 0;
  showResults();
};

const turnPage = (by) => {
  page += by;
  showResults();
  find('.batch-table').scrollIntoView({block: 'start'});
};

find('.batch-filters').addEventListener('input', () => {
  page = 0;
  showResults();
});
find('.batch-filters').addEventListener('submit', (event) => event.preventDefault());
element.addEventListener('click', (event) => {
  const head = event.target.closest('[data-sort]');
  if (head && event.target.closest('button')) sortBy(head.dataset.sort);
});

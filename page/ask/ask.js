// The ask tab: questions go through Gradio one at a time, and each is a row with its answer, grouped by picture.
// `element` and `trigger` are those of the component that hosts the rows; Gradio's events call `window.ofa`.
const host = element.querySelector('#rows');
const words = JSON.parse(host.dataset.words);
const {make, button} = drawing;
const {access} = host.dataset;  // what a call of the API needs: nothing, a key, or a login

const groups = [];  // newest first, and so are their rows
const queue = [];  // rows that wait for their call
let current = null;  // the row whose call is running
let notice = null;  // a question that cannot be a row: without a picture or a sentence
let chosen = null;  // the value that the picture component gets next
let inForm = null;  // the group whose picture the form has
let active = null;  // the row that the Tab key reaches

const tools = make('div', {class: 'rows-bar'}, make('h2', {text: words['rows.title']}),
  button('all', words['rows.all']), button('clear', words['rows.clear']));
const noticed = make('div', {class: 'rows-notice'});
const listed = make('div', {class: 'rows-groups'});
const hint = make('p', {class: 'rows-hint', text: words['rows.keys']});
const note = make('p', {class: 'rows-note'});
const said = make('p', {class: 'only-read', role: 'status', 'aria-live': 'polite'});
host.append(tools, noticed, listed, hint, note, said);

const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2);
const field = () => document.querySelector('#hypothesis textarea');
const shownRows = () => groups.filter((group) => group.open).flatMap((group) => group.rows);
const say = (text) => { said.textContent = text; };

// ---- drawing -------------------------------------------------------------------------------------------------

const draw = () => {
  const some = groups.length > 0;
  tools.hidden = hint.hidden = !some;
  const above = notice ? [drawing.notice(words, notice)] : some ? [] : [drawing.empty(words)];
  noticed.replaceChildren(...above);
  for (const group of groups) drawing.heading(words, group, group === inForm);
  if (!shownRows().includes(active)) active = shownRows()[0] ?? null;
  for (const row of groups.flatMap((group) => group.rows)) {
    row.element.toggleAttribute('data-newest', row === groups[0].rows[0]);
    const index = row === active ? 0 : -1;
    for (const one of [row.element, ...row.element.querySelectorAll('button')]) one.tabIndex = index;
  }
};

const drawRow = (row) => {
  const focused = row.element.contains(document.activeElement);
  drawing.row(words, row, access);
  draw();
  if (focused && !row.element.contains(document.activeElement)) row.element.focus({preventScroll: true});
};

const activate = (row) => {
  active = row;
  draw();
  row.element.focus();
};

const listRow = (group, row, where) => {
  row.group = group;
  row.element = make('li', {'data-question': row.id});
  group.element.querySelector('ul')[where](row.element);
  drawing.row(words, row, access);
};

// ---- groups and their pictures -------------------------------------------------------------------------------

const newGroup = (group) => {
  Object.assign(group, {paths: new Set(), path: null, element: drawing.group(words, group)});
  return group;
};

const setPicture = (group, picture) => {
  group.picture = picture;
  if (picture) group.url = URL.createObjectURL(picture);
};

const groupOf = (picture) => {
  const known = groups.find((group) => group.paths.has(picture.path));
  if (known) return known;
  const name = picture.orig_name || picture.path.split('/').pop();
  const group = newGroup({id: newId(), name, rows: []});
  group.path = picture.path;
  group.paths.add(picture.path);
  group.file = pictures.fileOf(picture);
  group.ready = group.file.then((file) => file && pictures.reduced(file)).then((kept) => {
    setPicture(group, kept);
    draw();
  });
  return group;
};

// Put the group first; the group before it closes.
const bringUp = (group) => {
  if (groups[0] === group) return;
  if (groups[0]) groups[0].open = false;
  const at = groups.indexOf(group);
  if (at >= 0) groups.splice(at, 1);
  groups.unshift(group);
  listed.prepend(group.element);
};

const forget = (row) => {
  const {group} = row;
  row.gone = true;
  row.element.remove();
  group.rows.splice(group.rows.indexOf(row), 1);
  if (group.rows.length) return [];
  group.element.remove();
  if (group.url) URL.revokeObjectURL(group.url);
  groups.splice(groups.indexOf(group), 1);
  return [group];
};

const discard = (rows) => {
  const emptied = rows.flatMap(forget);
  draw();
  stored.remove(emptied, rows).catch(unstored);
};

const unstored = () => { note.textContent = words['rows.unstored']; };

const store = async (row) => {
  await row.group.ready;
  if (row.gone) return;
  await stored.put(row.group, row);
  const over = stored.excess(groups);
  if (over.length) discard(over);
};

// ---- questions -----------------------------------------------------------------------------------------------

const unanswered = () => ({state: 'none', code: 'unanswered', text: words['rows.unanswered'], remedy: words['rows.unanswered.do']});

const send = () => {
  if (current) return;
  do current = queue.shift() ?? null; while (current?.gone);
  if (current) trigger('submit');
};

const ask = (group, text, premise) => {
  const row = {id: newId(), text, premise, answer: null, at: Date.now()};
  bringUp(group);
  group.open = true;
  listRow(group, row, 'prepend');
  group.rows.unshift(row);
  active = row;
  notice = null;
  draw();
  row.element.scrollIntoView({block: 'nearest'});
  store(row).catch(unstored);
  queue.push(row);
  send();
  return row;
};

const show = (row, answer) => {
  row.answer = answer;
  const final = answer.state !== 'pending';
  if (row === notice) draw();
  if (!row.group || row.gone) return;
  drawRow(row);
  if (!final) return;
  if (row === groups[0]?.rows[0]) row.element.scrollIntoView({block: 'nearest'});
  say(drawing.spoken(words, row));
  store(row).catch(unstored);
};

const again = (row) => {
  row.answer = null;
  drawRow(row);
  queue.push(row);
  send();
};

window.ofa = {
  // A question from the form.
  ask: (picture, text, premise) => {
    if (picture?.path && text?.trim()) {
      inForm = groupOf(picture);
      ask(inForm, text, premise || null);
      if (document.activeElement === field()) field().select();
      return;
    }
    notice = {id: newId(), text, premise, path: picture?.path ?? null, answer: null};
    draw();
    queue.push(notice);
    send();
  },

  // Return the arguments of the current row's call.
  next: async () => {
    const {id, text, premise, group, path} = current;
    const called = (path) => [path && {path, meta: {_type: 'gradio.FileData'}}, text, premise, id];
    if (!group) return called(path);
    try {
      group.path = await pictures.current(group.path, await group.file);
      group.paths.add(group.path);
    } catch (error) {
      // Offline: the call fails, too.
    }
    return called(group.path);
  },

  update: (answer) => { if (current && answer?.row === current.id) show(current, answer); },

  // The current row's call has ended, with or without an answer.
  ended: (answer) => {
    const final = answer?.row === current.id && answer.state !== 'pending';
    if (!final || current.answer?.state !== answer.state) show(current, final ? answer : unanswered());
    current = null;
    send();
  },

  lost: () => { if (current && (current.answer?.state ?? 'pending') === 'pending') show(current, unanswered()); },

  // Return the value for the picture component.
  picture: () => chosen,

  // The picture or the form has changed: an error about it no longer applies.
  corrected: (group = null) => {
    notice = null;
    inForm = group;
    draw();
  },
};

// The form: what is chosen, dropped, pasted or taken from the history becomes its picture or its sentence.
const refuse = (text) => {
  notice = {id: newId(), answer: {state: 'input', text}};
  draw();
  noticed.scrollIntoView({block: 'nearest'});
};

const fillForm = (path, name, group = null) => {
  chosen = {path, url: pictures.address(path), orig_name: name, meta: {_type: 'gradio.FileData'}};
  window.ofa.corrected(group);
  trigger('upload');
};

const takeFile = async (file) => {
  const typed = pictures.isUntyped(file) ? new File([file], file.name, {type: 'image/heic'}) : file;
  try {
    fillForm(await pictures.upload(typed), file.name);
  } catch (error) {
    refuse(error.message);
  }
};

const useGroup = async (group) => {
  group.path = await pictures.current(group.path, await group.file);
  group.paths.add(group.path);
  fillForm(group.path, group.name, group);
  field().focus();
};

const write = (text) => {
  const value = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value');
  value.set.call(field(), text);
  field().dispatchEvent(new Event('input', {bubbles: true}));
  field().focus();
};

// Gradio refuses a file of another type, or of none, before the upload, in English and with the file's name. This
// handles it first; the second event, an empty drop, ends Gradio's highlight.
const takeOver = (event) => {
  const files = [...((event.dataTransfer ?? event.target).files ?? [])];
  if (!event.target.closest?.('#picture')) return;
  const good = files.every(pictures.isPicture), untyped = files.find(pictures.isUntyped);
  if (good && !untyped) return;
  event.preventDefault();
  event.stopPropagation();
  if (event.type === 'drop') {
    const empty = {bubbles: true, cancelable: true, dataTransfer: new DataTransfer()};
    event.target.dispatchEvent(new DragEvent('drop', empty));
  }
  if (good) takeFile(untyped); else refuse(words.not_an_image);
};
for (const kind of ['change', 'drop']) document.addEventListener(kind, takeOver, true);

document.addEventListener('click', (event) => {
  if (event.target.matches?.('#picture input[type=file]')) event.target.accept = 'image/*,.heic,.heif';
}, true);

document.addEventListener('paste', (event) => {
  if (!element.checkVisibility()) return;
  const text = event.clipboardData.getData('text/plain'), [file] = event.clipboardData.files;
  const written = event.target.closest?.('input, textarea, [contenteditable]');
  if (written ? text || !file : !text && !file) return;
  event.preventDefault();
  event.stopPropagation();
  if (file && pictures.isPicture(file)) takeFile(file);
  else if (file) refuse(words.not_an_image);
  else write(text.trim());
}, true);

// A format that the browser cannot show, such as HEIC.
for (const kind of ['error', 'load']) document.addEventListener(kind, ({target}) => {
  if (!target.matches?.('#picture img')) return;
  target.toggleAttribute('data-unseen', kind === 'error');
  if (kind === 'error') target.alt = words['rows.no_preview'];
}, true);

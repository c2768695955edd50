// The pictures' bytes. The server deletes an upload after a while, and all of them at a restart: the page keeps each
// picture that a question is about, and uploads it again when it is needed.
const pictures = (() => {
  const UPLOAD = 'gradio_api/upload', FILE = 'gradio_api/file=';
  const REMEMBERED = 8;  // uploads that no question is about yet
  const SIDE = 1280;  // pixels: the longer side of a picture in the history
  const SMALL = 500_000;  // bytes: kept as it is
  const UNREADABLE = 8_000_000;  // bytes: kept as it is if the browser cannot read it
  const HEIC = /\.hei[cf]$/i;  // most browsers do not know the type
  const files = new Map();  // path of an upload → its file
  const send = window.fetch.bind(window);

  const remember = (path, file) => {
    files.set(path, file);
    if (files.size > REMEMBERED) files.delete(files.keys().next().value);
  };

  window.fetch = async (target, options) => {
    const answer = await send(target, options);
    const isUpload = String(target?.url ?? target).split('?')[0].endsWith(UPLOAD);
    if (isUpload && answer.ok && options?.body instanceof FormData) {
      remember((await answer.clone().json())[0], options.body.get('files'));
    }
    return answer;
  };

  const address = (path) => new URL(FILE + encodeURI(path), document.baseURI).href;

  // Return the path of the upload. Throws an error with the server's text.
  const upload = async (file) => {
    const form = new FormData();
    form.append('files', file, file.name || 'picture.png');
    const answer = await send(UPLOAD, {method: 'POST', body: form});
    if (!answer.ok) throw new Error(await answer.text());
    const [path] = await answer.json();
    remember(path, file);
    return path;
  };

  // Return the file behind a value of the picture component, null if it is gone.
  const fileOf = async ({path, orig_name: name}) => {
    if (files.has(path)) return files.get(path);
    const answer = await send(address(path)).catch(() => null);
    return answer?.ok ? new File([await answer.blob()], name || path.split('/').pop()) : null;
  };

  // Return a path that the server has, uploading `file` again if `path` is gone.
  const current = async (path, file) => {
    if (path) {
      const found = await send(address(path), {method: 'HEAD', cache: 'no-store'});
      if (found.status !== 404) return path;
    }
    return file ? upload(file).catch(() => path) : path;  // without an upload, the question returns the error
  };

  const drawn = async (bitmap) => {
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext('2d');
    context.fillStyle = 'white';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.92));
  };

  // Return the picture as the history keeps it, or null.
  const reduced = async (file) => {
    if (file.size <= SMALL) return file;
    try {
      return await drawn(await createImageBitmap(file));
    } catch (error) {
      return file.size <= UNREADABLE ? file : null;
    }
  };

  const isPicture = (file) => file.type.startsWith('image/') || HEIC.test(file.name);
  // Gradio knows a picture by its type alone.
  const isUntyped = (file) => !file.type.startsWith('image/') && HEIC.test(file.name);

  return {address, current, fileOf, isPicture, isUntyped, reduced, upload};
})();

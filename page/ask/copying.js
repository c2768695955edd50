// Rows as JSON, and as a curl command of the API.
const copying = (() => {
  const plain = (group, {text, premise, answer}) => ({
    picture: group.name,
    text,
    ...(premise ? {premise} : {}),
    ...(answer?.verdict ?? {code: answer?.code ?? answer?.state ?? 'pending', error: answer?.text ?? ''}),
  });
  const json = (value) => JSON.stringify(value, null, 2);

  // One word of a shell. The service reads every kind of space as one, and drops control and format characters; in a terminal
  // some of them would act.
  const quoted = (text) =>
    `'${text.replace(/\s/g, ' ').replace(/[\p{Cc}\p{Cf}]/gu, '').replaceAll("'", "'\\''")}'`;

  const curl = ({text, premise}, access) => [
    'curl -sS',
    ...(access === 'key' ? ['-H "Authorization: Bearer $KEY"'] : []),
    '-F image=@PICTURE',
    `--form-string text=${quoted(text)}`,  // -F would read a file for a text that begins with @ or <
    ...(premise ? [`--form-string premise=${quoted(premise)}`] : []),
    quoted(new URL('v1/judge', document.baseURI).href),
  ].join(' ');

  // Browsers offer the clipboard to pages over https and on localhost only.
  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const field = document.createElement('textarea'), focused = document.activeElement;
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand('copy');
    field.remove();
    focused?.focus();
    if (!done) throw new Error('copy');
  };

  return {plain, json, curl, copy};
})();

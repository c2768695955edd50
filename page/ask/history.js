// The questions, answers and pictures of this browser, in IndexedDB. Nothing of it is stored on the server.
// Rows are {id, group, text, premise, answer, at}, groups are {id, name, picture}; `at` is a time in milliseconds.
const stored = (() => {
  const NAME = 'ofa-questions', PICTURES = 40, ROWS = 400, BYTES = 32 << 20;
  const tabs = 'BroadcastChannel' in window ? new BroadcastChannel(NAME) : null;
  let database = null;

  const request = (asked) => new Promise((done, failed) => {
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
  });
  const ended = (transaction) => new Promise((done, failed) => {
    transaction.oncomplete = done;
    transaction.onabort = transaction.onerror = () => failed(transaction.error);
  });
  const write = () => {
    const transaction = database.transaction(['groups', 'rows'], 'readwrite');
    return [transaction, transaction.objectStore('groups'), transaction.objectStore('rows')];
  };

  // Open the history and return its groups with their rows, both newest first. Throws if the browser has none.
  const open = async () => {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => {
      for (const name of ['groups', 'rows']) opening.result.createObjectStore(name, {keyPath: 'id'});
    };
    database = await request(opening);
    const transaction = database.transaction(['groups', 'rows']);
    const [groups, rows] = await Promise.all(
      ['groups', 'rows'].map((name) => request(transaction.objectStore(name).getAll())));
    rows.sort((one, other) => other.at - one.at);
    const filled = groups.map((group) => ({...group, rows: rows.filter((row) => row.group === group.id)}));
    return filled.filter((group) => group.rows.length).sort((one, other) => other.rows[0].at - one.rows[0].at);
  };

  // Another tab may have cleared the history: write the group with each row.
  const put = async ({id, name, picture}, {text, premise, answer, at, id: row}) => {
    if (!database) return;
    const [transaction, groups, rows] = write();
    const written = async () => {
      if (!await request(groups.count(id))) groups.put({id, name, picture});
      rows.put({id: row, group: id, text, premise, answer, at});
    };
    await Promise.all([ended(transaction), written()]);
  };

  const remove = async (removedGroups, removedRows) => {
    if (!database) return;
    const [transaction, groups, rows] = write();
    for (const group of removedGroups) groups.delete(group.id);
    for (const row of removedRows) rows.delete(row.id);
    await ended(transaction);
  };

  const clear = async () => {
    tabs?.postMessage('cleared');
    if (!database) return;
    const [transaction, groups, rows] = write();
    groups.clear();
    rows.clear();
    await ended(transaction);
  };

  // Return the rows over the limits, oldest first. A group without rows goes with them.
  const excess = (groups) => {
    const rows = groups.flatMap((group) => group.rows).sort((one, other) => other.at - one.at);
    const over = new Set(rows.slice(ROWS));
    let bytes = 0;
    groups.forEach((group, index) => {
      bytes += group.picture?.size ?? 0;
      if (index > 0 && (index >= PICTURES || bytes > BYTES)) group.rows.forEach((row) => over.add(row));
    });
    return [...over];
  };

  const onCleared = (cleared) => { if (tabs) tabs.onmessage = cleared; };

  return {open, put, remove, clear, excess, onCleared, get works() { return database !== null; }};
})();

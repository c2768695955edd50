// The history of this browser, shown when the page opens.
const restore = async () => {
  try {
    for (const group of await stored.open()) {
      newGroup(group);
      group.file = Promise.resolve(group.picture && new File([group.picture], group.name, {type: group.picture.type}));
      group.open = groups.length === 0;
      groups.push(group);
      listed.append(group.element);
      for (const row of group.rows) {
        row.answer ??= unanswered();
        listRow(group, row, 'append');
      }
      setPicture(group, group.picture);
    }
    note.textContent = words['rows.kept'];
  } catch (error) {
    note.textContent = words['rows.off'];
  }
};

stored.onCleared(() => clearAll(false));
draw();
restore().then(draw);

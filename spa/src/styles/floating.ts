/** The styles of dialogs, menus and tooltips. They come with the first of these: no first look needs them. */
import styles from './floating.css?inline';

document.head.append(Object.assign(document.createElement('style'), { textContent: styles }));

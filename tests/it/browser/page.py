"""The page of `pipe serve` in a browser: url, folder for pictures (or empty), token (or empty)."""

url, pictures, token = sys.argv[1:4]


def shot(browser, name):
    if pictures:
        browser.picture(f"{pictures}/{name}.png")


def texts(browser, css):
    return browser.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", css)


def visible(css):
    return f"document.querySelector('{css}') && document.querySelector('{css}').offsetParent !== null"


def query(browser, sql):
    browser.js("document.querySelector('#sql').value = ''")
    browser.type("#sql", sql + "\ue009\ue007\ue000")  # Ctrl+Enter
    browser.until("!document.querySelector('#run').disabled", f"{sql} ends")


def enter(browser):
    browser.go(url)
    if token:
        browser.until(visible("#login"), "the token is asked for")
        check(not browser.js("return document.body.innerText.includes('small')"), "the page tells of tables before the token")
        for wrong, message in [("no token at all", "This is not a token."), ("not-this-one", "This is not valid.")]:
            browser.type("#token", wrong + "\ue007")
            browser.until(f"document.querySelector('#denied').textContent === '{message}'", f"{wrong} is refused")
        shot(browser, "token")
        browser.type("#token", token + "\ue007")
    browser.until("document.querySelector('.pipeline')", "tables are listed")


def tables(browser):
    check(texts(browser, ".pipeline > summary") == ["small"], texts(browser, ".pipeline > summary"))
    entries = texts(browser, ".pipeline li summary span:first-child")
    check({"metrics", "sim", "sim_requests", "trace", "v_latency"} <= set(entries), entries)
    browser.js("[...document.querySelectorAll('.pipeline li summary')].find(s => s.textContent.startsWith('metrics')).click()")
    browser.until(visible(".about li"), "columns are shown")
    about = browser.js("return document.querySelector('li details[open] .about').innerText")
    for part in ("sql stage metrics", "6 rows", "ttft_ms_p99", "ms, Float64", "Int64"):
        check(part in about, f"{part} in {about}")
    browser.js("document.querySelector('li details[open] .do button').click()")
    browser.until("document.querySelectorAll('tbody tr').length === 6", "the rows of a table")
    check(browser.js("return document.querySelector('#sql').value") == "SELECT * FROM small.metrics", "the statement of a table")


def queries(browser):
    query(browser, "SELECT * FROM (VALUES (9007199254740993, 'b', NULL), (2, 'a', 1.5), (10, NULL, -3.25)) AS t (n, s, f)")
    rows = lambda: browser.js("return [...document.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    given = [["9007199254740993", "b", "NULL"], ["2", "a", "1.5"], ["10", "NULL", "-3.25"]]
    check(rows() == given, rows())
    check("3 rows" in browser.js("return document.querySelector('#count').textContent"), "the number of rows")
    check(browser.js("return getComputedStyle(document.querySelector('tbody td')).textAlign") == "right", "numbers are on the right")
    check(browser.js("return document.querySelectorAll('td.null').length") == 2, "NULL is marked")
    for column, order in [(1, [[1, 2, 0], [0, 2, 1]]), (2, [[1, 0, 2], [0, 1, 2]]), (3, [[2, 1, 0], [1, 2, 0]])]:
        for expected, way in zip(order, ("ascending", "descending")):
            browser.click(f"th:nth-child({column}) button")
            check(rows() == [given[i] for i in expected], (column, way, rows()))
            check(browser.js(f"return document.querySelector('th:nth-child({column})').getAttribute('aria-sort')") == way, way)
    query(browser, "SELECT value AS n FROM generate_series(1, 123456)")
    told = browser.js("return document.querySelector('#count').textContent")
    check(told.startswith("The first 1,000 of 123,456 rows"), told)
    check(browser.js("return document.querySelectorAll('tbody tr').length") == 1000, "a thousand rows")
    shot(browser, "many")
    query(browser, "SELECT ttft FROM small.metrics")
    told = browser.js("return document.querySelector('#problem').innerText")
    check("no column `ttft`" in told and "ttft_ms_p99" in told, told)
    check(not browser.js(f"return {visible('#result')}"), "no result stands beside a mistake")
    shot(browser, "mistake")
    query(browser, "SELECT 1 / (value - 5000) AS n FROM generate_series(1, 100000)")
    told = browser.js("return document.querySelector('#problem').innerText")
    check("zero" in told.lower(), told)
    # Text of a table is text.
    query(browser, "SELECT '<img src=x onerror=alert(1)>' AS \"<b>\"")
    check(texts(browser, "td") == ["<img src=x onerror=alert(1)>"] and texts(browser, "th button") == ["<b>"], texts(browser, "td"))
    recent = texts(browser, "#history button")
    check(len(recent) == 6 and "img" in recent[0], recent)


def keys(browser):
    browser.js("document.querySelector('#sql').value = ''")
    browser.type("#sql", "SELECT * FROM small.met")
    check("small.metrics" in texts(browser, "#names button"), texts(browser, "#names button"))
    browser.type("#sql", "\ue009 \ue000")  # Ctrl+Space
    value = lambda: browser.js("return document.querySelector('#sql').value")
    check(value() == "SELECT * FROM small.metrics", value())
    browser.type("#sql", "\ue004")  # Tab
    check(value().endswith("metrics  "), repr(value()))
    browser.type("#sql", "\ue00c\ue004")  # Escape, Tab
    check(browser.js("return document.activeElement.id") != "sql", "Escape and Tab leave the field")
    check(value().endswith("metrics  "), repr(value()))
    unnamed = browser.js("""return [...document.querySelectorAll('button, input, textarea, a, summary, [role=region]')].filter(e =>
        !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length))).map(e => e.outerHTML)""")
    check(not unnamed, unnamed)
    check(browser.js("return document.documentElement.scrollWidth <= window.innerWidth"), "nothing is wider than the window")


def downloads(browser, folder):
    query(browser, "SELECT value AS n FROM generate_series(1, 5000)")
    for kind in ("csv", "json", "parquet", "arrow"):
        browser.click(f"#downloads [data-format={kind}]")
    names = {"result.csv": b"n\n1\n", "result.json": b"[\n{", "result.parquet": b"PAR1", "result.arrows": b"\xff\xff\xff\xff"}
    end = time.time() + 30
    while time.time() < end and not all(os.path.exists(f"{folder}/{n}") for n in names):
        time.sleep(0.1)
    for name, begin in names.items():
        there = os.path.exists(f"{folder}/{name}")
        check(there and open(f"{folder}/{name}", "rb").read().startswith(begin), f"download of {name}: {os.listdir(folder)}")


def report(browser):
    if token:
        return
    browser.go(url + "report/small")
    check(texts(browser, "h1") == ["small"], texts(browser, "h1"))
    browser.click("th button")
    check(browser.js("return document.querySelector('th[aria-sort]') !== null"), "the report's script runs")
    check(browser.js("try { return localStorage.length < 0 } catch { return true }"), "the report is in a sandbox")


import os
import tempfile

for name, width, height, dark in [("wide", 1400, 900, False), ("dark", 1400, 900, True), ("phone", 390, 844, False)]:
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(width, height, dark, folder)
        try:
            enter(browser)
            if name == "phone":
                browser.click("#tables > summary")
            tables(browser)
            shot(browser, name)
            if name != "dark":
                keys(browser)
            if name == "wide":
                queries(browser)
                downloads(browser, folder)
                browser.go(url + "?x#sql=SELECT%20count(*)%20AS%20n%20FROM%20small.metrics")
                browser.until("document.querySelector('td')?.textContent === '6'", "a link runs its statement")
            mistakes = [e for e in browser.errors() if "favicon" not in e and "status of 40" not in e and "status of 500" not in e]
            check(not mistakes, mistakes)
            if name == "wide":
                report(browser)
                check(not browser.errors(), "the report complains")
        finally:
            browser.quit()
done()

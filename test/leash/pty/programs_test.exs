defmodule Leash.Pty.ProgramsTest do
  @moduledoc "Programs that people use at a terminal, in that of `pty:`."

  use Leash.Test.Case, async: false

  alias Leash.Test.Screen

  setup do: {:ok, dir: tmp_dir!()}

  defp open(argv, options \\ []) do
    defaults = [pty: true, on_output: self(), ready: nil]
    start_tree({:sh, "exec " <> Python.quote_all(argv)}, Keyword.merge(defaults, options))
  end

  test "sh -i asks for commands, and ends at the end of its input" do
    tree = open(["sh", "-i"], env: [{"PS1", "dash> "}, {"ENV", nil}])
    Screen.read_until(tree.worker, "dash> ")
    Screen.type(tree.worker, "echo $((6 * 7))\n")
    Screen.read_until(tree.worker, "\n42\r\n")
    Worker.close_stdin(tree.worker)
    assert {_shown, :normal} = Screen.read_to_end(tree.worker)
    assert_gone(tree)
  end

  test "Python's prompt evaluates, is interrupted, and ends at the end of its input" do
    basic = [{"PYTHON_BASIC_REPL", "1"}, {"PYTHONSTARTUP", nil}]
    tree = open([Python.path(), "-q", "-E"], env: basic ++ [{"TERM", "dumb"}])
    Screen.read_until(tree.worker, ">>> ")
    Screen.type(tree.worker, "6 * 7\n")
    Screen.read_until(tree.worker, "42\r\n")
    # A signal right before a sleep is heeded after it, so the sleeps are short.
    sleeps = "[time.sleep(0.02) for _ in iter(int, 1)]"
    Screen.type(tree.worker, "import time; print('wait' + 'ing'); #{sleeps}\n")
    Screen.read_until(tree.worker, "waiting\r\n")
    Screen.type(tree.worker, "\x03")
    Screen.read_until(tree.worker, "KeyboardInterrupt")
    Screen.read_until(tree.worker, ">>> ")
    Worker.close_stdin(tree.worker)
    # Python may remember that it was interrupted, and says so by its end.
    assert {_shown, reason} = Screen.read_to_end(tree.worker)
    assert reason in [:normal, {:signal, :sigint}]
    assert_gone(tree)
  end

  test "a program that asks for a password does not show it" do
    tree = open([Python.path(), "-E", "-s", Python.fixture("asks.py")], pty: [cols: 132])
    Screen.read_until(tree.worker, "Name? ")
    Screen.type(tree.worker, "ada\n")
    Screen.read_until(tree.worker, "Password: ")
    Screen.type(tree.worker, "s3cret!\n")
    shown = Screen.read_until(tree.worker, "columns\r\n")
    assert shown =~ "ada has a password of 7 characters, 132 columns"
    refute shown =~ "s3cret"
    Screen.read_until(tree.worker, "[y/N] ")
    Screen.type(tree.worker, "n\n")
    assert Screen.read_until(tree.worker, "[y/N] ") =~ "\e[31mno\e[0m\r\n"
    Screen.type(tree.worker, "y\n")
    assert {shown, :normal} = Screen.read_to_end(tree.worker)
    assert shown =~ "going on\r\n"
  end

  @tag needs: :less
  test "less pages, goes to the end and quits", %{dir: dir} do
    file = Path.join(dir, "numbers")
    File.write!(file, Enum.map_join(1..1000, &"line #{&1}\n"))
    tree = open(["less", file], pty: [rows: 10, cols: 40], env: [{"LESS", nil}])
    shown = Screen.read_until(tree.worker, "line 9")
    refute shown =~ "line 10"
    Screen.type(tree.worker, "G")
    Screen.read_until(tree.worker, "line 1000")
    Screen.type(tree.worker, "q")
    assert {_shown, :normal} = Screen.read_to_end(tree.worker)
  end

  @tag needs: :vim
  test "vim edits a file", %{dir: dir} do
    file = Path.join(dir, "text")
    tree = open(["vim", "-u", "NONE", "-i", "NONE", "-N", "-n", file])
    Screen.read_until(tree.worker, "~")
    Screen.type(tree.worker, "ihello")
    Screen.read_until(tree.worker, ~r/h.*e.*l.*l.*o/s)
    Screen.type(tree.worker, "\e")
    Screen.type(tree.worker, ":wq\r")
    assert {_shown, :normal} = Screen.read_to_end(tree.worker)
    assert File.read!(file) == "hello\n"
    assert_gone(tree)
  end

  # sudo runs its command in one more terminal then, and is between the two.
  @sudoers "Defaults use_pty\nDefaults !fqdn\nroot ALL=(ALL:ALL) NOPASSWD: ALL\n"
  @own_sudoers "mount --bind $0 /etc/sudoers && exec sudo -u nobody sh -c \"$1\""

  @tag needs: :sudo
  test "sudo with use_pty passes on signals, size and end", %{dir: dir} do
    sudoers = Path.join(dir, "sudoers")
    File.write!(sudoers, @sudoers)
    File.chmod!(sudoers, 0o440)
    line = "trap 'stty size' WINCH; trap 'exit 3' INT; id -un; tty; while :; do sleep 0.02; done"
    tree = open(["unshare", "--mount", "sh", "-c", @own_sudoers, sudoers, line])
    shown = Screen.read_until(tree.worker, ~r{/dev/pts/\d+\r\n})
    assert shown =~ "nobody\r\n"
    refute shown =~ Worker.info(tree.worker).pty.device <> "\r\n"
    assert Worker.resize(tree.worker, 30, 100) == :ok
    Screen.read_until(tree.worker, "30 100\r\n")
    assert_alive(tree)
    Screen.type(tree.worker, "\x03")
    assert {_shown, {_how, _status}} = Screen.read_to_end(tree.worker)
    assert_gone(tree)

    # Beyond sudo's terminal the ladder reaches all the same.
    tree =
      open(["unshare", "--mount", "sh", "-c", @own_sudoers, sudoers, "trap '' TERM; " <> line])

    Screen.read_until(tree.worker, ~r{/dev/pts/\d+\r\n})
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  @tag needs: :sshd
  test "ssh to a server of the test's own asks for a terminal, and gets it", %{dir: dir} do
    [key, host] = for name <- ["key", "host"], do: Path.join(dir, name)

    for path <- [key, host],
        do: {_, 0} = System.cmd("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", path])

    File.cp!(key <> ".pub", Path.join(dir, "authorized"))

    server =
      ["-i", "-e", "-f", "/dev/null", "-h", host, "-o", "StrictModes=no", "-o", "UsePAM=no"] ++
        ["-o", "AuthorizedKeysFile=#{dir}/authorized", "-o", "PermitRootLogin=yes"]

    proxy = Python.quote_all([Leash.Test.Needs.sshd() | server]) <> " 2>#{dir}/log"

    client =
      ["ssh", "-F", "/dev/null", "-tt", "-i", key, "-o", "ProxyCommand=#{proxy}"] ++
        ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "localhost"]

    line =
      "trap 'stty size' WINCH; trap 'exit 3' INT; stty size; echo go; while :; do sleep 0.02; done"

    tree = open(client ++ [line], pty: [rows: 11, cols: 44])
    assert Screen.read_until(tree.worker, "go\r\n") =~ "11 44\r\n"
    assert Worker.resize(tree.worker, 12, 55) == :ok
    Screen.read_until(tree.worker, "12 55\r\n")
    Screen.type(tree.worker, "\x03")
    assert {_shown, {_how, _status}} = Screen.read_to_end(tree.worker)
    assert_gone(tree)
  end

  # script(1) runs in our terminal then, and the program in one of script's own.
  @tag needs: :script
  test "what script(1) records of a program is what comes here", %{dir: dir} do
    log = Path.join(dir, "typescript")

    line =
      "printf 'a\\tb\\n\\033[1mbold\\033[0m\\n'; ls --color=always -C /; stty size; seq 2000; echo $TERM"

    size = [rows: 24, cols: 60]
    record = ["-q", "-e", "-O", log, "-c", line]
    assert {shown, 0} = Leash.cmd("script", record, pty: size, env: %{"SHELL" => "/bin/sh"})
    assert Leash.cmd("sh", ["-c", line], pty: size) == {shown, 0}
    # The record is framed by a line of script's own at each end.
    [_begun, recorded] = String.split(File.read!(log), "\n", parts: 2)
    assert [recorded, _done] = String.split(recorded, "\nScript done")
    assert recorded == shown
  end
end

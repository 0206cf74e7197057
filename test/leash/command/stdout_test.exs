defmodule Leash.Command.StdoutTest do
  use Leash.Test.Case, async: true

  alias Leash.OptionsError

  # What a program has as descriptors 1 and 2.
  @show "a=$(readlink /proc/$$/fd/1 /proc/$$/fd/2); echo \"$a\" >&2; echo out"

  test "stdout: :null is no pipe, and nothing is collected" do
    assert {"", 0} = Leash.cmd("sh", ["-c", "exec readlink /proc/self/fd/1"], stdout: :null)
    options = [stdout: :null, stderr: :capture, into: []]
    assert {{[], err}, 0} = Leash.cmd("sh", ["-c", @show], options)
    assert ["/dev/null", "pipe:" <> _] = String.split(err)
    assert {"", 3} = Leash.cmd("sh", ["-c", "yes | head -c 1000000; exit 3"], stdout: :null)
  end

  test "stderr follows it with stderr_to_stdout" do
    path = Path.join(tmp_dir!(), "both")
    options = [stdout: {:file, path}, stderr_to_stdout: true]
    assert {"", 0} = Leash.cmd("sh", ["-c", "echo a; echo b >&2"], options)
    assert File.read!(path) == "a\nb\n"
    # A file is appended to.
    assert {"", 0} = Leash.cmd("echo", ["c"], options)
    assert File.read!(path) == "a\nb\nc\n"
  end

  test "a command without a pipe is over when it has exited, and ends what it left" do
    decoy = start_decoy("null")
    began = System.monotonic_time(:millisecond)
    path = Path.join(tmp_dir!(), "pid")
    line = "sleep 60 & echo $! > #{path}; exit 4"
    assert {"", 4} = Leash.cmd("sh", ["-c", line], stdout: :null, stderr: :null)
    assert System.monotonic_time(:millisecond) - began < 3_000
    refute File.exists?("/proc/" <> String.trim(File.read!(path)))
    assert_unharmed(decoy)
  end

  test "a stream reads stderr alone, or nothing but the end" do
    stream = Leash.stream("sh", ["-c", @show], stdout: :null, stderr: :stream, lines: true)

    assert [{:stderr, "/dev/null"}, {:stderr, "pipe:" <> _}, {:exit, {:status, 0}}] =
             Enum.to_list(stream)

    assert Enum.to_list(Leash.stream("seq", ["9"], stdout: :null)) == [{:exit, {:status, 0}}]
  end

  test "what is no such option is refused with a sentence" do
    for {options, words} <- [
          {[stdout: :inherit], ":capture, :null or {:file, path}"},
          {[stdout: {:file, "/no/such/dir/x"}], "a file in a directory that exists"},
          {[stdout: :null, use_stdio: false], "nothing beside use_stdio: false"}
        ] do
      error = assert_raise OptionsError, fn -> Leash.cmd("true", [], options) end
      assert error.key == :stdout
      assert Exception.message(error) =~ words
    end
  end

  test "Erlang gives it, with a charlist as path" do
    path = Path.join(tmp_dir!(), "out")
    options = %{stdout: {:file, String.to_charlist(path)}}
    assert :leash.cmd(~c"echo", [~c"hi"], options) == {"", 0}
    assert File.read!(path) == "hi\n"
    assert :leash.cmd(~c"echo", [~c"hi"], %{stdout: :null}) == {"", 0}
  end
end

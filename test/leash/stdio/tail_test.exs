defmodule Leash.Stdio.TailTest do
  use Leash.Test.Case, async: true

  alias Leash.Stdio.Tail

  describe "the tail" do
    test "is the last 20 lines, however they arrive" do
      text = Enum.map_join(1..500, &"line #{&1}\n")
      expected = for n <- 481..500, do: "line #{n}"

      for size <- [1, 7, 4_000, 100_000] do
        tail = text |> parts(size) |> Enum.reduce("", &Tail.push(&2, &1))
        assert Tail.lines(tail) == expected
      end
    end

    test "is at most 4 KiB of whole lines, and takes no more memory than twice that" do
      long = String.duplicate("x", 1_500)

      for size <- [1, 100, 5_000, 9_000] do
        lines = Enum.map_join(1..30, &"#{&1} #{long}\n")

        tail =
          for part <- parts(lines, size), reduce: "" do
            tail ->
              tail = Tail.push(tail, part)
              assert byte_size(tail) <= 8_192
              tail
          end

        assert Tail.lines(tail) == ["29 #{long}", "30 #{long}"]
      end

      assert [<<_::binary-size(4_096)>>] =
               Tail.lines(Tail.push("", String.duplicate("y", 70_000)))
    end

    test "keeps nothing of a large read but its own bytes" do
      data = :binary.copy(String.duplicate("z", 65_536))
      assert :binary.referenced_byte_size(Tail.push("", data)) <= 8_192
    end

    test "shows text, as the log does" do
      assert Tail.lines("a\e[31m\xFF\r\n10%\r20%\r\nend") == ["a␛[31m\uFFFD", "10%", "20%", "end"] or
               Tail.lines("a\e[31m\xFF\r\n10%\r20%\r\nend") == ["a␛[31m\uFFFD", "20%", "end"]
    end
  end

  defp parts(text, size) when byte_size(text) <= size, do: [text]

  defp parts(text, size) do
    rest = binary_part(text, size, byte_size(text) - size)
    [binary_part(text, 0, size) | parts(rest, size)]
  end

  test "a worker that ends before it is ready says why, whatever gets its stderr" do
    decoy = start_decoy("tail")
    line = "echo ignored; echo 'usage: x' >&2; printf 'no such \\033[1mmodel' >&2; exit 3"
    collectable = %Leash.Test.Sink{fun: fn _ -> :ok end}

    for output <- [self(), fn _stream, _data -> :ok end, {:into, collectable}] do
      options = [shell: line, ready: ~r/never/, on_output: output]
      assert {:error, {:exited, exit} = reason} = Worker.start_link(options)
      assert %Exit{status: 3, stderr: ["usage: x", "no such ␛[1mmodel"]} = exit

      assert Leash.Error.format(reason) ==
               "the program ended before it was ready: status 3; the last line of its stderr " <>
                 "is \"no such ␛[1mmodel\""
    end

    assert_unharmed(decoy)
  end

  test "the answer of a stop, exit_reason: and last_exit have it" do
    name = :"tail_test_#{System.unique_integer([:positive])}"
    line = "trap 'echo bye >&2; exit 0' TERM; echo hi >&2; echo ready; sleep 60 & wait"
    options = [shell: line, ready: ~r/ready/, on_output: self(), name: name]
    {:ok, worker} = Worker.start_link(options)
    assert {:ok, %Exit{stderr: ["hi", "bye"]}} = Worker.stop(worker)

    options = [
      shell: "echo oops >&2; exit 4",
      name: name,
      on_output: self(),
      exit_reason: & &1.stderr
    ]

    {:ok, worker} = Worker.start_link(options)
    assert_receive {:EXIT, ^worker, ["oops"]}, 5_000

    {:ok, worker} =
      Worker.start_link(command: "sleep", args: ["60"], name: name, on_output: self())

    assert %{exit: %Exit{stderr: ["oops"]}} = Leash.Tree.info(worker).last_exit
    assert {:ok, %Exit{stderr: []}} = Worker.stop(worker)
  end

  test "stderr that goes elsewhere leaves none" do
    path = Path.join(tmp_dir!(), "err")

    for stderr <- [:null, :stdout, {:file, path}] do
      options = [shell: "echo bad >&2; exit 3", ready: ~r/x/, stderr: stderr, on_output: self()]
      assert {:error, {:exited, %Exit{stderr: []} = exit}} = Worker.start_link(options)
      assert Leash.Error.format({:exited, exit}) =~ ~r/status 3$/
    end
  end

  test "a receiver that hangs costs the lines and not the end" do
    hang = fn _stream, _data -> Process.sleep(:infinity) end
    options = [shell: "echo bad >&2; exit 3", ready: ~r/x/, on_output: hang]
    assert {:error, {:exited, %Exit{status: 3, stderr: []}}} = Worker.start_link(options)
  end
end

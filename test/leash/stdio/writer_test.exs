defmodule Leash.Stdio.WriterTest do
  use Leash.Test.Case, async: true

  test "the writer ends with its worker, however that ends" do
    for ending <- [&Worker.stop/1, &Process.exit(&1, :shutdown), &Process.exit(&1, :kill)] do
      worker = start!(command: "cat", stdin: :pipe)
      {:links, links} = Process.info(worker, :links)
      # The writer and the readers of two streams.
      helpers = for pid <- links, is_pid(pid) and pid != self(), do: pid
      assert length(helpers) == 3
      monitors = for pid <- helpers, do: Process.monitor(pid)
      ending.(worker)
      assert_receive {:EXIT, ^worker, _reason}, 5_000
      for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, _, _, _}, 5_000)
    end
  end

  test "the writer ends with a worker whose program ended" do
    worker = start!(shell: "read line", stdin: :pipe)
    {:links, links} = Process.info(worker, :links)
    monitors = for pid <- links, is_pid(pid) and pid != self(), do: Process.monitor(pid)
    assert length(monitors) == 3
    # The worker may be gone before the writer has answered.
    assert Worker.write(worker, "\n") in [:ok, {:error, :epipe}]
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    for monitor <- monitors, do: assert_receive({:DOWN, ^monitor, _, _, _}, 5_000)
  end

  test "a write returns when the kernel has taken all of it, and not before" do
    worker = start!(command: "cat", stdin: :pipe, stdout: :null)
    cat = Observer.identity(Worker.os_pid(worker))
    Observer.signal(cat, "STOP")
    assert_eventually(fn -> Observer.state(elem(cat, 0)) == "T" end)
    # A pipe of 64 KiB holds this, and nothing more.
    assert Worker.write(worker, :binary.copy("x", 65_536)) == :ok
    write = Task.async(fn -> Worker.write(worker, "y", :infinity) end)
    refute Task.yield(write, 200)
    Observer.signal(cat, "CONT")
    assert Task.await(write) == :ok
  end

  test "a wait for a program that does not read delays no other write, each with its timeout" do
    deaf = start!(command: "sleep", args: ["60"], stdin: :pipe)
    other = start!(command: "cat", stdin: :pipe, stdout: :null)
    data = :binary.copy("x", 300_000)
    forever = Task.async(fn -> Worker.write(deaf, data, :infinity) end)
    assert_eventually(fn -> match?({:error, :timeout}, Worker.write(deaf, "y", 10)) end)
    began = System.monotonic_time(:millisecond)
    assert Worker.write(deaf, "z", 100) == {:error, :timeout}
    assert (System.monotonic_time(:millisecond) - began) in 100..1_000
    assert Worker.write(other, data) == :ok
    assert Worker.info(deaf).state == :running
    refute Task.yield(forever, 0)
    assert {:ok, %Exit{signal: :sigterm}} = Worker.stop(deaf)
    assert Task.await(forever) == {:error, :epipe}
  end

  test "what was not taken in time is not written later" do
    worker = start!(command: "cat", stdin: :pipe, on_output: self())
    cat = Observer.identity(Worker.os_pid(worker))
    Observer.signal(cat, "STOP")
    assert_eventually(fn -> Observer.state(elem(cat, 0)) == "T" end)
    assert Worker.write(worker, :binary.copy("a", 65_536)) == :ok
    assert Worker.write(worker, "late", 50) == {:error, :timeout}
    Observer.signal(cat, "CONT")
    assert Worker.write(worker, "next") == :ok
    assert Worker.close_stdin(worker) == :ok
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert output(worker, "") == :binary.copy("a", 65_536) <> "next"
  end

  test "the end of the input comes behind what is queued" do
    worker = start!(command: "cat", stdin: :pipe, on_output: self())
    cat = Observer.identity(Worker.os_pid(worker))
    Observer.signal(cat, "STOP")
    assert_eventually(fn -> Observer.state(elem(cat, 0)) == "T" end)
    data = :crypto.strong_rand_bytes(200_000)
    write = Task.async(fn -> Worker.write(worker, data, :infinity) end)
    refute Task.yield(write, 100)
    close = Task.async(fn -> Worker.close_stdin(worker) end)
    refute Task.yield(close, 100)
    Observer.signal(cat, "CONT")
    assert Task.await(write) == :ok
    assert Task.await(close) == :ok
    # It may have ended, or be gone.
    assert {:error, why} = Worker.write(worker, "more")
    assert why in [:closed, :epipe, :noproc]
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert output(worker, "") == data
  end

  test "what is no iodata is the caller's mistake, and harms neither worker nor writer" do
    worker = start!(command: "cat", stdin: :pipe, on_output: self())
    assert_raise ArgumentError, fn -> Worker.write(worker, [:atom]) end
    assert Worker.write(worker, "x") == :ok
    assert_receive {:leash_output, ^worker, :stdout, "x"}, 5_000
  end

  defp start!(options) do
    {:ok, worker} = Worker.start_link(options)
    on_exit(fn -> Process.exit(worker, :kill) end)
    worker
  end

  defp output(worker, so_far) do
    receive do
      {:leash_output, ^worker, :stdout, data} -> output(worker, so_far <> data)
    after
      0 -> so_far
    end
  end
end

defmodule Leash.Stdio.FlowControlTest do
  use Leash.Test.Case, async: true

  alias Leash.Stdio.FlowControl

  @message 64 * 1024

  describe "a handler that does not take its messages" do
    test "holds back the program, and its mailbox stays within the window" do
      handler = start_handler()
      worker = start!(command: "yes", on_output: handler, output_window: 20)
      await_held_back(worker)
      {:message_queue_len, length} = Process.info(handler, :message_queue_len)
      # The worker may have sent one more to see whether the handler takes it.
      assert length in 21..22
      {:binary, binaries} = Process.info(handler, :binary)
      assert binaries |> Enum.map(&elem(&1, 1)) |> Enum.sum() <= length * @message
      assert %{state: :running} = Worker.info(worker)
    end

    test "delays neither the end of the tree nor that of the worker's processes" do
      handler = start_handler()
      worker = start!(command: "yes", on_output: handler, output_window: 20)
      await_held_back(worker)
      yes = Observer.identity(Worker.os_pid(worker))
      helpers = linked(worker)
      assert helpers != []
      began = now()
      assert {:ok, %Exit{signal: :sigterm}} = Worker.stop(worker)
      assert now() - began < 700
      refute Observer.alive?(yes)
      Enum.each(helpers, &assert_ended/1)
    end

    test "gets everything in order once it does" do
      handler = start_handler()
      count = 100_000
      worker = start!(command: "seq", args: ["#{count}"], on_output: handler, output_window: 2)
      await_held_back(worker)
      refute_received {:EXIT, ^worker, _reason}
      go(handler)
      assert_receive {:EXIT, ^worker, :normal}, 10_000
      assert_eventually(fn -> taken(handler) == sequence(count) end)
    end

    test "gets everything, though many others of its messages stay unread" do
      test = self()

      handler =
        spawn_link(fn ->
          receive do
            :begin -> :ok
          end

          send(test, {:all, only_output("")})
        end)

      for n <- 1..1_000, do: send(handler, {:other, n})
      send(handler, :begin)
      options = [command: "seq", args: ["100000"], on_output: handler, output_window: 5]
      worker = start!(options)
      assert_receive {:all, output}, 20_000
      assert output == sequence(100_000)
      assert_receive {:EXIT, ^worker, :normal}, 5_000
    end

    test "gets what the pipe held at the end, for which the worker does not wait" do
      handler = start_handler()
      for n <- 1..10, do: send(handler, {:other, n})
      began = now()
      worker = start!(command: "seq", args: ["1000"], on_output: handler, output_window: 5)
      assert_receive {:EXIT, ^worker, :normal}, 10_000
      assert now() - began < 900
      go(handler)
      assert_eventually(fn -> taken(handler) == sequence(1000) end)
    end

    @tag :slow
    test "is not flooded while a killed worker's tree ends" do
      handler = start_handler()
      worker = start!(command: "yes", stderr: :null, on_output: handler, output_window: 5)
      await_held_back(worker)
      yes = Observer.identity(Worker.os_pid(worker))
      [output] = linked(worker)
      # As long as the program lives it may write. The shim is what would end it.
      Observer.signal(Observer.identity(Worker.shim_pid(worker)), "STOP")
      Process.exit(worker, :kill)
      assert_receive {:EXIT, ^worker, :killed}
      assert_eventually(fn -> not Observer.alive?(yes) end)
      assert {:message_queue_len, length} = Process.info(handler, :message_queue_len)
      assert length in 6..7
      go(handler)
      assert_ended(output)
      assert_eventually(fn -> taken(handler) =~ ~r/\A(y\n)+y?\z/ end)
    end

    test "and two streams share its mailbox" do
      handler = start_handler()
      worker = start!(shell: "yes >&2 & exec yes", on_output: handler, output_window: 50)
      await_held_back(worker)
      {:message_queue_len, length} = Process.info(handler, :message_queue_len)
      # Each of them may send a burst between two looks, and one more to see whether the handler
      # takes it.
      assert length in 51..(51 + 16 + 2)
    end
  end

  describe "the window does not count" do
    test "before a line is there for which the handler itself waits" do
      worker =
        start!(
          shell: "seq 100000; echo READY; exec yes",
          ready: ~r/READY/,
          ready_timeout: 10_000,
          output_window: 1,
          on_output: self()
        )

      await_held_back(worker)
      {:message_queue_len, length} = Process.info(self(), :message_queue_len)
      assert length > 2
    end

    test "before a port is open for which the handler itself waits" do
      {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(listener)
      :ok = :gen_tcp.close(listener)

      script =
        "import socket, sys; sys.stdout.write('x' * 1000000); sys.stdout.flush(); s = socket.socket(); " <>
          "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', #{port})); s.listen()\n" <>
          "while True: print('y')"

      worker =
        start!(
          command: "python3",
          args: ["-c", script],
          ready: {:tcp, port},
          ready_timeout: 10_000,
          output_window: 1,
          on_output: self()
        )

      # From here on the window counts.
      await_held_back(worker)
    end

    test "for a handler that is gone" do
      {handler, monitor} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^monitor, :process, ^handler, _reason}
      worker = start!(command: "seq", args: ["100000"], on_output: handler, output_window: 1)
      assert_receive {:EXIT, ^worker, :normal}, 10_000
    end

    test "for functions, the log, and processes of other nodes" do
      assert FlowControl.new(:log, 1) == nil
      assert FlowControl.new(fn _stream, _data -> :ok end, 1) == nil
      # The pid of another node in the external term format.
      remote = <<131, 88, 100, 0, 3, "a@b", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1>>
      assert FlowControl.new(:erlang.binary_to_term(remote), 1) == nil
      assert FlowControl.check(nil) == {:open, nil}
    end
  end

  describe "on_stderr" do
    test "gets stderr, and on_output the rest" do
      test = self()
      said = fn stream, data -> send(test, {:said, stream, data}) end
      worker = start!(shell: "echo out; echo err >&2", on_output: self(), on_stderr: said)
      assert_receive {:leash_output, ^worker, :stdout, "out\n"}
      assert_receive {:said, :stderr, "err\n"}
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      refute_received {:leash_output, ^worker, :stderr, _data}
    end

    test "is what on_output says by default" do
      worker = start!(shell: "echo err >&2", on_output: self())
      assert_receive {:leash_output, ^worker, :stderr, "err\n"}
    end
  end

  test "wrong options are refused" do
    for {key, value} <- [output_window: 0, output_window: :infinity, on_stderr: 1] do
      assert %Leash.OptionsError{key: ^key} =
               catch_error(Worker.start_link([{:command, "true"}, {key, value}]))
    end
  end

  defp start!(options) do
    {:ok, worker} = Worker.start_link(options)
    on_exit(fn -> Process.exit(worker, :kill) end)
    worker
  end

  # Takes nothing before it is told to go. Then it keeps what it gets.
  # Leaves all other messages where they are.
  defp only_output(output) do
    receive do
      {:leash_output, _worker, :stdout, more} ->
        output = output <> more
        if String.ends_with?(output, "\n100000\n"), do: output, else: only_output(output)
    end
  end

  defp start_handler do
    spawn_link(fn ->
      receive do: (:go -> :ok)
      take("")
    end)
  end

  defp take(so_far) do
    receive do
      {:leash_output, _worker, _stream, data} ->
        take(so_far <> data)

      {:taken, from} ->
        send(from, {:taken, so_far})
        take(so_far)

      {:other, _n} ->
        take(so_far)
    end
  end

  defp go(handler), do: send(handler, :go)

  defp taken(handler) do
    send(handler, {:taken, self()})
    assert_receive {:taken, data}, 5_000
    data
  end

  defp sequence(count), do: Enum.map_join(1..count, &"#{&1}\n")

  # Waits until the program's writes no longer arrive: its pipe is full and has no reader.
  defp await_held_back(worker) do
    pid = Worker.os_pid(worker)
    assert_eventually(fn -> written(pid) > 0 and still?(pid, 20) end, 10_000)
  end

  defp still?(_pid, 0), do: true

  defp still?(pid, looks) do
    before = written(pid)
    Process.sleep(10)
    Observer.state(pid) == "S" and written(pid) == before and still?(pid, looks - 1)
  end

  defp written(pid) do
    [_all, bytes] = Regex.run(~r/^wchar: (\d+)/m, File.read!("/proc/#{pid}/io"))
    String.to_integer(bytes)
  end

  defp linked(worker) do
    {:links, links} = Process.info(worker, :links)
    for pid <- links, is_pid(pid) and pid != self(), do: pid
  end

  defp assert_ended(pid) do
    monitor = Process.monitor(pid)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, 7_000
  end

  defp now, do: System.monotonic_time(:millisecond)
end

defmodule Leash.Degraded.Keeper do
  # Ends the process group of one program on a system without the native side.
  #
  # The VM's fork server makes each port's program the leader of a process group
  # (erl_child_setup.c), so the group's number is the program's. A shell outside of the group
  # waits for a word on its stdin. The end of stdin means that this process or the VM is gone.
  # After each of them it signals the group, step by step, until kill(2) finds no member.
  #
  # A group's number is not given to another process while the group has a member. The shell
  # stops at the first look that finds none.
  @moduledoc false

  use GenServer, restart: :temporary

  alias Leash.{Ladder, Signal}

  @watcher ~S"""
  group=$1; shift
  member() { kill -s 0 -- "-$group" 2>/dev/null; }
  send() { kill -s "$1" -- "-$group" 2>/dev/null; }
  waiting() {
    left=$1
    while member && [ "$left" -gt 0 ]; do sleep 0.05; left=$((left - 1)); done
  }
  read -r word
  if [ "$word" != kill ]; then
    for step; do
      member || exit 0
      send "${step%:*}"
      waiting "${step#*:}"
    done
  fi
  member && send KILL
  waiting 100
  member && exit 1
  exit 0
  """

  # The watcher's unit of time.
  @tick_ms 50
  @forever 1_000_000_000

  @typedoc """
  A program to be kept.

  `port` is its port, which may close before its owner ends. `os_pid` is program and group.
  """
  @type kept :: %{
          kind: :worker | :command | :port,
          owner: pid(),
          port: port() | nil,
          os_pid: pos_integer(),
          label: String.t(),
          name: GenServer.name() | nil,
          group: Leash.group() | nil,
          stop: Ladder.t(),
          on_crash: :ladder | :kill
        }

  @typedoc "How the group ended: nothing is left of it, or a member could not be ended."
  @type outcome :: :gone | :left

  @doc "Starts the keeper of a program. The owner gets `{:leash_kept, keeper, outcome}`."
  @spec start_link(kept()) :: GenServer.on_start()
  def start_link(kept), do: GenServer.start_link(__MODULE__, kept)

  @doc "Ends the group."
  @spec finish(pid(), :ladder | :kill) :: :ok
  def finish(keeper, how), do: GenServer.cast(keeper, {:finish, how})

  @doc "Returns the program, its number and its state, or nil if its keeper has ended."
  @spec row(pid()) :: map() | nil
  def row(keeper) do
    GenServer.call(keeper, :row)
  catch
    :exit, _ended -> nil
  end

  @impl true
  def init(kept) do
    Process.flag(:trap_exit, true)
    monitor = Process.monitor(kept.owner)
    _ = kept.port && Port.monitor(kept.port)

    watcher =
      Port.open({:spawn_executable, "/bin/sh"}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        args: ["-c", @watcher, "sh", "#{kept.os_pid}" | steps(kept.stop)]
      ])

    {:ok,
     Map.merge(kept, %{
       monitor: monitor,
       watcher: watcher,
       number: System.unique_integer([:positive, :monotonic]),
       began: System.monotonic_time(:millisecond),
       tree: :alive
     })}
  end

  # Numbers of signals differ between systems, and their names do not.
  defp steps(ladder) do
    for step <- ladder, {:ok, number} <- [Signal.number(elem(step, 0))] do
      "#{name(Signal.name(number))}:#{ticks(elem(step, 1))}"
    end
  end

  defp name("sig" <> name), do: String.upcase(name)
  defp name(number) when is_integer(number), do: "#{number}"
  defp name(signal), do: signal |> Atom.to_string() |> name()

  defp ticks(:infinity), do: @forever
  defp ticks(ms), do: div(ms + @tick_ms - 1, @tick_ms)

  @impl true
  def handle_call(:row, _from, kept), do: {:reply, kept, kept}

  @impl true
  def handle_cast({:finish, how}, kept), do: {:noreply, tell(kept, how)}

  @impl true
  def handle_info({watcher, {:exit_status, status}}, %{watcher: watcher} = kept) do
    outcome = if status == 0, do: :gone, else: :left
    send(kept.owner, {:leash_kept, self(), outcome})
    {:stop, if(outcome == :gone, do: :normal, else: {:shutdown, :left}), %{kept | watcher: nil}}
  end

  def handle_info({:DOWN, monitor, :process, _pid, reason}, %{monitor: monitor} = kept),
    do: {:noreply, tell(kept, how(kept, reason))}

  def handle_info({:DOWN, _monitor, :port, _port, _reason}, kept),
    do: {:noreply, tell(kept, :ladder)}

  def handle_info(_other, kept), do: {:noreply, kept}

  defp how(_kept, reason) when reason in [:normal, :shutdown], do: :ladder
  defp how(_kept, {:shutdown, _why}), do: :ladder
  defp how(kept, _crash), do: kept.on_crash

  @impl true
  def terminate(_reason, %{watcher: nil}), do: :ok

  # The application stops: its trees are ended before it is gone.
  def terminate(_reason, kept) do
    %{watcher: watcher} = tell(kept, :ladder)

    receive do
      {^watcher, {:exit_status, _status}} -> :ok
    end
  end

  # The watcher takes one word. Its port is closed after that word only by its own end.
  defp tell(%{tree: :ending} = kept, :ladder), do: kept

  defp tell(%{tree: :ending} = kept, :kill) do
    # A second shell, because the first is busy with its steps.
    _ = System.cmd("/bin/sh", ["-c", "kill -s KILL -- -#{kept.os_pid}"], stderr_to_stdout: true)
    kept
  end

  defp tell(kept, how) do
    Port.command(kept.watcher, "#{how}\n")
    %{kept | tree: :ending}
  end
end

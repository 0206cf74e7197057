defmodule Leash.Worker.LetGo do
  # A shim that cannot be signalled, because this machine refuses pidfds or `/proc`. What is left is the leash, and with it goes
  # the port that reports come by: nobody hears how the program ends, and `:kill` is the ladder.
  @moduledoc false

  alias Leash.{HeldShim, Hunt, Ladder, Native}
  alias Leash.Worker.{Hold, State}

  # Between two looks whether the shim has ended, and how long it is waited for beyond its ladder: without /proc
  # it finds its tree by trying numbers.
  @look_ms 10
  @beyond_ms 11_000
  # From the exit of a program that left nothing to the word that its tree is gone.
  @last_report_ms 100

  @doc "Whether a tree with these options could be ended here. What outlives its leash is ended by a signal to its shim, or never."
  @spec possible?(map()) :: boolean()
  def possible?(%{on_exit: :detach}), do: HeldShim.possible?()
  def possible?(_options), do: true

  @doc "Whether a shim has reported, and this machine is why it is not held."
  @spec needed?(State.t()) :: boolean()
  def needed?(state),
    do: state.shim_fd == nil and state.mark != nil and not HeldShim.possible?()

  @doc "Ends the tree of a shim that no signal reaches."
  @spec instead_of_a_signal(State.t()) :: State.t()
  def instead_of_a_signal(%{exited: nil} = state), do: begin(state)

  # Its program has exited. Where that left nothing, the last report is on its way.
  def instead_of_a_signal(state) do
    _timer = Process.send_after(self(), {:leash, :let_go}, @last_report_ms)
    state
  end

  @doc "Lets go of the leash, and waits for the shim's end."
  @spec begin(State.t()) :: State.t()
  def begin(state) do
    ladder = Ladder.duration(state.options.stop)
    until = if ladder == :infinity, do: :infinity, else: now() + ladder + @beyond_ms
    look(%{Hold.close_port(state) | let_go: until, phase: :ending})
  end

  @doc "Looks whether it has ended. Its number is free then, whoever may have it by now: a sign that needs neither /proc nor pidfds."
  @spec look(State.t()) :: State.t()
  def look(%{let_go: until} = state) do
    ended? = not Native.number_taken?(state.shim_pid)

    if ended? or now() >= until do
      hunt = Hunt.start(Hunt.of_workers(state.run, [state.number]))
      %{state | phase: :hunting, hunt: hunt, shim_ended?: ended?}
    else
      _timer = Process.send_after(self(), {:leash, :look_for_shim}, @look_ms)
      state
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end

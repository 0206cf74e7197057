defmodule Leash.Stdio.FlowControl do
  # Holds back the reader of a pipe while the process that gets its output does not keep up.
  #
  # What counts is the length of the receiver's mailbox, which needs nothing from the receiver: no acknowledgement
  # that it could forget, and messages of others fill it just as much. A receiver that leaves many others unread
  # would never get anything again, so a mailbox that stays as full as it is gets one message more now and then: when that
  # one was taken, what stays does not count.
  @moduledoc false

  # The length is asked for once in so many messages: asking a process that runs makes it answer, and the asker wait. So a
  # mailbox may get this many messages of each stream beyond the window when others fill it meanwhile.
  @burst 16

  # Between two looks at a full mailbox, in milliseconds. A receiver that works off a few messages in a millisecond
  # must not find its mailbox empty; one that sleeps must not cost anything.
  @shortest_pause 1
  @longest_pause 10

  # So many looks at a mailbox that is as full as it was, the longest pause apart, before it gets one message more.
  @looks 10

  defstruct [
    :pid,
    :size,
    limited?: false,
    credit: 0,
    pause: @shortest_pause,
    # what stays in the mailbox and does not count
    base: 0,
    # the length at the last look at a full mailbox, and how many looks found it so
    seen: {0, 0},
    # the length before a message that was sent to see whether it is taken
    probe: nil
  ]

  @type t :: %__MODULE__{
          pid: pid(),
          size: pos_integer(),
          limited?: boolean(),
          credit: non_neg_integer(),
          pause: pos_integer(),
          base: non_neg_integer(),
          seen: {non_neg_integer(), non_neg_integer()},
          probe: non_neg_integer() | nil
        }

  @doc """
  A window of `size` messages, without effect until `limit/1`; `nil` for what has no mailbox, and for a pid of
  another node, of which only that node knows the length.
  """
  @spec new(term(), pos_integer()) :: t() | nil
  def new(pid, size) when is_pid(pid) and node(pid) == node(),
    do: %__MODULE__{pid: pid, size: size}

  def new(_handler, _size), do: nil

  @doc "From now on the mailbox counts."
  @spec limit(t() | nil) :: t() | nil
  def limit(nil), do: nil
  def limit(%__MODULE__{} = window), do: %{window | limited?: true}

  @doc """
  Lets pass what a pipe still holds that nobody writes to any more, whatever the mailbox: a few messages, for which
  nobody shall wait.
  """
  @spec finish(t() | nil) :: t() | nil
  def finish(nil), do: nil
  def finish(%__MODULE__{} = window), do: %{window | credit: @burst}

  @doc "Whether a message may be sent now, or in how many milliseconds to ask again."
  @spec check(t() | nil) :: {:open, t() | nil} | {:full, pos_integer(), t()}
  def check(nil), do: {:open, nil}
  def check(%__MODULE__{limited?: false} = window), do: {:open, window}
  def check(%__MODULE__{credit: credit} = window) when credit > 0, do: {:open, window}

  def check(%__MODULE__{pid: pid, size: size} = window) do
    case Process.info(pid, :message_queue_len) do
      {_key, length} ->
        window = settle(window, length)
        room = size - (length - window.base) + 1
        if room > 0, do: open(window, room), else: full(window, length)

      # Nobody is there any more who could be overrun.
      nil ->
        {:open, %{window | credit: @burst}}
    end
  end

  # The probe was taken: what is left was there before it.
  defp settle(%{probe: probe} = window, length) when probe != nil and length <= probe,
    do: %{window | base: length, probe: nil}

  defp settle(%{base: base} = window, length), do: %{window | base: min(base, length)}

  defp open(window, room) do
    credit = min(@burst, room)
    {:open, %{window | credit: credit, pause: @shortest_pause, seen: {0, 0}}}
  end

  defp full(%{seen: {length, @looks}, probe: nil} = window, length),
    do: {:open, %{window | credit: 1, probe: length, seen: {length, 0}}}

  defp full(%{pause: pause, seen: {before, looks}} = window, length) do
    looks = if length == before and pause == @longest_pause, do: min(looks + 1, @looks), else: 0
    pause = min(2 * pause, @longest_pause)
    {:full, window.pause, %{window | pause: pause, seen: {length, looks}}}
  end

  @doc "A message was sent."
  @spec sent(t() | nil) :: t() | nil
  def sent(%__MODULE__{credit: credit} = window) when credit > 0,
    do: %{window | credit: credit - 1}

  def sent(window), do: window
end
